"""Names that users choose from: methods, tasks and baselines.

Nothing is imported here, so that the help and the shell completion of the command line are fast.
"""

TRAINING_FREE_SUMMARIES = {
    "zero_shot": "nearest class text",
    "prototypes": "nearest class mean",
    "knn": "votes of the nearest support images",
    "tip_adapter": "class texts plus a cache of the support images",
    "tip_x": "Tip-Adapter plus similarity of the zero-shot distributions",
    "ape": "Tip-Adapter on the most discriminative channels",
    "gda": "class texts plus Gaussians with a shared covariance",
    "proker": "kernel ridge regression around zero-shot",
    "ss_text": "class texts plus sums of the support images",
    "local": "another method, gated by the distance to the nearest support image",
}
TRANSDUCTIVE_SUMMARIES = {
    "transclip": "Gaussian mixture of all queries, held near the class texts",
    "ss_text_u": "SS-Text plus all queries, assigned to classes by optimal transport",
}
TRAINED_SUMMARIES = {
    "llu": "linear maps of both embeddings that act near the support images",
    "linear_probe": "logistic regression",
    "linear_probe_text": "logistic regression regularised towards the class texts",
    "lp_plus_plus": "linear probe with a learned text weight per class",
    "clap": "class vectors constrained to stay near the class texts",
    "tip_adapter_f": "Tip-Adapter with trained keys",
    "clip_adapter": "small residual network on the image features",
    "taskres": "learned residual on the class texts",
    "rla": "linear map of the image features near the identity",
}
METHOD_SUMMARIES = TRAINING_FREE_SUMMARIES | TRANSDUCTIVE_SUMMARIES | TRAINED_SUMMARIES

TASKS = {
    "zero_shot": "no support set; class names only, with an ensemble of templates and with the single one",
    "few_shot": "a support set with a few images of each class",
    "linear_probe": "a linear probe on all support images",
    "base_to_new": "support of the first half of the classes; each half is classified among its own classes",
    "forgetting": "support of the first half of the classes; each half is classified among all classes",
    "transfer": "support from another dataset; queries are classified among the classes of this one",
    "open_set": "support of the first half of the classes; queries of both halves, known or unknown",
    "shift": "support from this dataset; queries are images of its classes in another domain",
}
BASELINES = {
    "raw_pixels": "16 × 16 pixels in RGB",
    "untrained": "the image tower of the checkpoint with random weights",
}
