#!/bin/sh
# Install into a virtual environment that has no pip. The Dockerfile and
# tests/docker/test_install.py run the same steps.
#
#   install.sh torch cpu|cuda ENVIRONMENT         large packages that seldom change
#   install.sh dependencies cpu|cuda ENVIRONMENT  all other locked packages
#   install.sh dependencies ray ENVIRONMENT       all packages of a machine of a Ray cluster
#   install.sh service ENVIRONMENT                the service, as a regular installation
#
# pip's configuration, such as PIP_INDEX_URL, chooses the package index. TORCH_INDEX_URL is an index
# with torch's wheels without CUDA. If it is not set, the target `cpu` gets the wheels of
# requirements.lock, which run on a CPU as well but bring the libraries of CUDA.
set -eu

locked() {
    python3 -m pip --python "$environment/bin/python" install --quiet --no-cache-dir \
        --disable-pip-version-check --require-hashes --only-binary :all: --requirement "$1"
}

step=$1
shift
case "$step" in
service)
    environment=$1
    # Built with the locked setuptools, so that nothing else is downloaded.
    python3 -m pip --python "$environment/bin/python" install --quiet --no-cache-dir \
        --disable-pip-version-check --no-deps --no-build-isolation --no-index .
    ;;
torch | dependencies)
    target=$1 environment=$2 whole=requirements.lock
    case "$target" in
    cpu) lock=${TORCH_INDEX_URL:+requirements-cpu.lock} ;;
    cuda) lock= ;;
    ray) lock= whole=requirements-ray.lock ;;
    *) echo "The target is cpu, cuda or ray, not $target." >&2 && exit 2 ;;
    esac
    if [ -z "$lock" ]; then
        locked "$whole"
    elif [ "$step" = dependencies ]; then
        locked "$lock"
    else
        # The lock has the versions, but its hashes are of other files: the index is trusted.
        # shellcheck disable=SC2046 # one argument for each package
        python3 -m pip --python "$environment/bin/python" install --quiet --no-cache-dir \
            --disable-pip-version-check --no-deps --only-binary :all: \
            --index-url "$TORCH_INDEX_URL" \
            $(sed -n 's/^\(torch\(vision\)\?==[^ ;]*\).*/\1/p' requirements.lock)
    fi
    ;;
*)
    echo "The step is torch, dependencies or service, not $step." >&2
    exit 2
    ;;
esac
