#!/bin/sh
# Installs into a virtual environment that has no pip of its own. The Dockerfile and
# tests/docker/test_install.py run the same steps.
#
#   install.sh torch cpu|cuda ENVIRONMENT         what is large and seldom changes
#   install.sh dependencies cpu|cuda ENVIRONMENT  everything else that is locked
#   install.sh service ENVIRONMENT                the service itself, without its sources
#
# Where packages come from is pip's own configuration, such as PIP_INDEX_URL. TORCH_INDEX_URL is
# your index of torch's wheels without CUDA; without it the target `cpu` gets those of
# requirements.lock, which run on a CPU as well but bring CUDA's libraries along.
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
    # Built with the setuptools of the lock, so that nothing is fetched that is not in it.
    python3 -m pip --python "$environment/bin/python" install --quiet --no-cache-dir \
        --disable-pip-version-check --no-deps --no-build-isolation --no-index .
    ;;
torch | dependencies)
    target=$1 environment=$2
    case "$target" in
    cpu) lock=${TORCH_INDEX_URL:+requirements-cpu.lock} ;;
    cuda) lock= ;;
    *) echo "The target is cpu or cuda, not $target." >&2 && exit 2 ;;
    esac
    if [ -z "$lock" ]; then
        locked requirements.lock
    elif [ "$step" = dependencies ]; then
        locked "$lock"
    else
        # The versions are the lock's. Its hashes are of other files, so here you trust your index.
        # shellcheck disable=SC2046 # one word for each of the two
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
