"""g2p-id: the pronunciation of Indonesian words, those that are in no dictionary by its model."""

import json

import numpy as np
from g2p_id import G2P

SYLLABLES = ("me", "ber", "ke", "te", "se", "ren", "pe", "lan", "kan", "tem", "gel", "pes", "mer", "di", "su")
WORDS = 600

speak, random = G2P(), np.random.default_rng(0)
words = ["".join(random.choice(SYLLABLES, random.integers(2, 6))) for _ in range(WORDS)]
print(json.dumps([str(speak(word)) for word in words]))
