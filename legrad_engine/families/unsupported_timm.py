"""timm's other architectures, refused by kind: how their patches mix, and what comes nearest."""

from legrad_engine.families.registry import Refusal, register

_IS = "its image tower is timm's {name}, "
_PLAIN = "timm:vit_small_patch16_224"
_STAGES = "timm:swin_tiny_patch4_window7_224"
_MOBILE = "timm:fastvit_sa12"

# By name of the refusal: the reason, the nearest model, the files of timm.models.
_KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "timm-convolution": (
        "a convolutional network: its patches are mixed by convolutions, not by attention",
        _STAGES,
        (
            "byobnet", "convmixer", "cspnet", "cspnext", "densenet", "dla", "dpn", "efficientnet",
            "fasternet", "focalnet", "ghostnet", "hardcorenas", "hgnet", "hrnet", "inception_next",
            "inception_v3", "inception_v4", "lcnetv2", "mobilenetv3", "nasnet", "nfnet", "pnasnet",
            "rdnet", "regnet", "repghost", "repvit", "res2net", "resnest", "rexnet", "selecsls",
            "senet", "sknet", "starnet", "vgg", "vovnet", "xception", "xception_aligned",
        ),
    ),
    "timm-mlp": (
        "an MLP mixer: its patches are mixed by fixed weights, not by attention",
        _PLAIN,
        ("mlp_mixer",),
    ),
    "timm-metaformer": (
        "a MetaFormer: its patches are mixed by pooling or convolutions, in all stages or before "
        "the last ones",
        _STAGES,
        ("metaformer",),
    ),
    "timm-recurrent": (
        "whose patches are mixed by recurrences, gates or state spaces, not by attention",
        _PLAIN,
        ("efficientvim", "mambaout", "sequencer"),
    ),
    "timm-channel-attention": (
        "which attends among channels or by a linear kernel: there is no softmax over patches",
        _PLAIN,
        ("edgenext", "efficientvit_mit", "swiftformer", "xcit"),
    ),
    "timm-dual-attention": (
        "a DaViT: its blocks attend among patches and among channels in turns",
        _STAGES,
        ("davit",),
    ),
    "timm-class-attention": (
        "whose class token joins late, in blocks that only it attends in (class attention)",
        "timm:deit3_small_patch16_224",
        ("cait", "volo"),
    ),
    "timm-gated-attention": (
        "a ConViT: its attention is a gated sum of a softmax and of fixed positions",
        "timm:deit3_small_patch16_224",
        ("convit",),
    ),
    "timm-two-paths": (
        "which has two streams of tokens: their attentions are not over one patch grid",
        _PLAIN,
        ("coat", "crossvit", "tnt"),
    ),
    "timm-pooled-keys": (
        "a pyramid whose tokens or keys are pooled or taken from windows: a weight is not of one "
        "patch",
        _STAGES,
        ("gcvit", "hiera", "hieradet_sam2", "mvitv2", "nest", "pit", "pvt_v2", "twins"),
    ),
    "timm-other-swin": (
        "a Swin of another version: its attention is of cosines, or its norms come after it",
        _STAGES,
        ("swin_transformer_v2", "swin_transformer_v2_cr"),
    ),
    "timm-hybrid": (
        "a network of convolutions with attention in some of its blocks",
        _MOBILE,
        (
            "byoanet", "cpubone", "csatv2", "efficientformer", "efficientformer_v2",
            "efficientvit_msra", "iformer", "levit", "lowformer", "maxxvit", "mobilenetv5",
            "mobilevit", "nextvit", "shvit", "tiny_vit", "visformer",
        ),
    ),
    "timm-segment-anything": (
        "the encoder of Segment Anything: windows and relative positions, and no pooled output",
        _PLAIN,
        ("vision_transformer_sam",),
    ),
    "timm-any-grid": (
        "a ViT for grids of any shape in one batch: its masked tokens have no fixed grid",
        "timm:vit_base_patch16_siglip_224",
        ("naflexvit",),
    ),
    "timm-language-encoder": (
        "the picture encoder of a language model: it has no output that is compared with texts or "
        "classes",
        "timm:vit_base_patch16_siglip_224",
        ("deepseek_vit", "gemma4_vit", "qwen3_vit"),
    ),
}  # fmt: skip

for _name, (_reason, _nearest, _modules) in _KINDS.items():
    register(Refusal(name=_name, reason=_IS + _reason, nearest=_nearest, timm_modules=_modules))
