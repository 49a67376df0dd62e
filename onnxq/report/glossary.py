"""Terms of the reports, explained where a page shows them."""

GLOSSARY = {
    "SQNR": "Signal-to-quantization-noise ratio of the outputs against the float model, in decibels: "
    "10 log10(mean square of the float values / mean square of the differences). 20 dB is an error of about "
    "10 % of the values, 30 dB about 3 %, 40 dB about 1 %. Of several output parts, the worst one counts.",
    "expected SQNR": "Lower bound of the SQNR on samples that nothing was chosen on, from the spread over "
    "the validation samples.",
    "clipping range": "Range of values that the integers of a tensor can represent; values outside become "
    "its ends.",
    "clipped": "Share of values outside the clipping range.",
    "MACs": "Multiply-accumulate operations: the arithmetic of convolutions and matrix products.",
    "calibration": "Finding the clipping range of each tensor from its values on samples.",
    "candidate": "A form of the model, a calibration method and techniques that were tried together.",
    "mixed precision": "Some nodes stay in float, because there int8 would cost too much accuracy.",
    "latency / float": "Time of one inference / time of the float model, on one thread of this machine, "
    "measured in turns; below 1 is faster than float.",
    "size / float": "Size of the file / size of the float model, with external data.",
    "agreement": "Share of decisions, such as classes, that are the same as the float model's.",
    "exact": "Share of lines whose text is that of the label.",
    "CER": "Character error rate: inserted, missing and replaced characters / characters of the labels.",
    "same lines": "Share of lines whose text is that of the float model, right or wrong.",
    "CER to float": "Characters that differ from the float model's text / characters of that text.",
    "perplexity": "exp(mean negative log-likelihood of the next token): as many tokens are equally likely. "
    "Lower is better.",
    "Spearman": "Rank correlation of the cosine similarities of pairs with their labels, at most 1.",
    "cosine": "Cosine similarity of the outputs to the float model's; 1 is the same direction.",
    "confidence interval": "Range that holds the score on 95 % of new sets of samples of this size, by "
    "resampling.",
    "p": "Share of random swaps between the two models that change the score at least as much; above 0.05 "
    "the change may be chance.",
    "own SQNR": "SQNR of a layer's output when its inputs are float: the error that this layer adds alone.",
    "saturating pairs": "Pairs of weights whose products may exceed 16 bits on CPUs without VNNI.",
}
"""Explanation by term."""
