"""Samples for the models of `wild.py` that read graphs: molecules of chemical reactions, and proteins."""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MOLECULES = (
    "CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CC(=O)Nc1ccc(O)cc1", "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
    "OCC(O)C(O)C(O)C(O)C=O", "CN1CCCC1c1cccnc1", "NCCc1ccc(O)c(O)c1", "NCCc1c[nH]c2ccc(O)cc12",
    "COc1cc(C=O)ccc1O", "CC1CCC(C(C)C)C(O)C1", "CC1(C)C2CCC1(C)C(=O)C2", "O=C(O)c1ccccc1O",
    "CC(C)NCC(O)COc1cccc2ccccc12", "Clc1ccc(C(c2ccc(Cl)cc2)C(Cl)(Cl)Cl)cc1", "NC(Cc1ccccc1)C(=O)O",
    "NC(CO)C(=O)O", "NCC(=O)O", "CC(N)C(=O)O", "NC(CS)C(=O)O", "OC(=O)C1CCCN1", "CCO", "CO", "OCC(O)CO",
    "CC(=O)O", "OC(=O)CC(O)(CC(=O)O)C(=O)O", "Nc1ccccc1", "Oc1ccccc1", "Cc1ccc(N)cc1", "Brc1ccccc1",
    "CCN(CC)CCOC(=O)c1ccc(N)cc1", "NS(=O)(=O)c1ccc(N)cc1", "OB(O)c1ccccc1", "FC(F)(F)c1ccccc1",
    "CC(C)(C)OC(=O)Cl", "ClC(=O)c1ccccc1", "C1CCNCC1", "C1COCCN1", "CN(C)C=O", "CC#N", "C=CC(=O)O",
)  # fmt: skip
"""SMILES of common molecules."""
NUMBERS = {"B": 5, "C": 6, "N": 7, "O": 8, "F": 9, "P": 15, "S": 16, "CL": 17, "BR": 35, "I": 53}
VALENCES = {5: 3, 6: 4, 7: 3, 8: 2, 16: 2}
"""Bonds of an atom by its number; 1 if not listed."""
FARTHEST = 10
"""Largest distance between two atoms that a reaction's encoding tells, in bonds."""
RESIDUE = ((1, 0, 0), (0, 1, 1), (0, 2, 2), (2, 3, 2), (0, 4, 1), (4, 5, 0), (4, 6, 1))
"""Element, role and the backbone atom it is bound to, of N, CA, C, O, CB, H and HA of a residue."""
TARGETS = (5, 6, 0, 1, 4, 2)
"""The atoms of a residue whose chemical shifts are predicted: H, HA, N, CA, CB and C."""


class Molecule(NamedTuple):
    """Atomic numbers [atoms], neighbours with hydrogens [atoms], and distances in bonds [atoms, atoms]."""

    numbers: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray


def atoms_and_bonds(smiles: str) -> tuple[list[str], dict[tuple[int, int], float]]:
    """Read a SMILES text without charges, isotopes and stereochemistry.

    Return the symbols of the atoms, lower case where aromatic, and the orders of their bonds.
    """
    symbols: list[str] = []
    bonds: dict[tuple[int, int], float] = {}
    opened: dict[str, int] = {}
    branches: list[int] = []
    last, order = -1, 0.0
    for token in re.findall(r"\[nH\]|Cl|Br|[A-Za-z]|\d|[()=#]", smiles):
        if token in "=#":
            order = 2.0 if token == "=" else 3.0
        elif token == "(":
            branches.append(last)
        elif token == ")":
            last = branches.pop()
        elif token.isdigit() and token not in opened:
            opened[token] = last
        else:
            closes = token.isdigit()
            other = opened.pop(token) if closes else last
            if not closes:
                symbols.append(token.strip("[]"))
                last = len(symbols) - 1
            if other >= 0:
                aromatic = symbols[other].islower() or symbols[other] == "nH"
                aromatic = aromatic and (symbols[last].islower() or symbols[last] == "nH")
                bonds[other, last] = order or (1.5 if aromatic else 1.0)
            order = 0.0
    return symbols, bonds


def molecule(smiles: str) -> Molecule:
    """Read a SMILES text; see `atoms_and_bonds`."""
    symbols, bonds = atoms_and_bonds(smiles)
    used, bound = np.zeros(len(symbols)), np.zeros((len(symbols),) * 2, bool)
    for (one, other), order in bonds.items():
        bound[one, other] = bound[other, one] = True
        used[[one, other]] += order
    numbers = np.array([NUMBERS[symbol.upper().replace("NH", "N")] for symbol in symbols])
    hydrogens = [max(0, VALENCES.get(n, 1) - round(u + 0.1)) for n, u in zip(numbers, used, strict=True)]
    known = {"n": 0, "nH": 1}  # an aromatic nitrogen's hydrogen is written
    hydrogens = [known.get(symbol, count) for symbol, count in zip(symbols, hydrogens, strict=True)]
    return Molecule(numbers, bound.sum(1) + np.array(hydrogens), distances(bound))


def distances(bound: np.ndarray) -> np.ndarray:
    """Return the bonds on the way between each two atoms, at most FARTHEST, from who is bound to whom."""
    reached = np.eye(len(bound), dtype=bool)
    found, near = np.where(reached, 0, FARTHEST), bound | reached
    for steps in range(1, FARTHEST):
        further = reached @ near
        found[further & ~reached] = steps
        reached = further
    return found


def joined(first: Molecule, second: Molecule, rng: random.Random) -> Molecule:
    """Bind two molecules by an atom of each that has a hydrogen, as far as it can be told."""
    ends = []
    for each in (first, second):
        near = (each.distances == 1).sum(1)
        able = np.flatnonzero(each.neighbours > near)
        ends.append(int(rng.choice(able.tolist() or range(len(near)))))
    count = len(first.numbers)
    bound = np.zeros((count + len(second.numbers),) * 2, bool)
    bound[:count, :count], bound[count:, count:] = first.distances == 1, second.distances == 1
    bound[ends[0], count + ends[1]] = bound[count + ends[1], ends[0]] = True
    numbers = np.concatenate([first.numbers, second.numbers])
    return Molecule(numbers, np.concatenate([first.neighbours, second.neighbours]), distances(bound))


def reactions(count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield reactions of two molecules that bind, the product's atoms in another order.

    Atoms are numbers + 2 with a token before the reaction and each molecule, distances are bonds + 2, and 0
    between molecules.
    """
    rng, known = random.Random(0), [molecule(smiles) for smiles in MOLECULES]
    for _ in range(count):
        first, second = rng.choice(known), rng.choice(known)
        whole = joined(first, second, rng)
        order = rng.sample(range(len(whole.numbers)), len(whole.numbers))
        product = Molecule(
            whole.numbers[order], whole.neighbours[order], whole.distances[np.ix_(order, order)]
        )
        parts = [(first, 2), (second, 2), (product, 3)]
        size = 1 + sum(len(part.numbers) + 1 for part, _ in parts)
        feeds = {name: np.zeros((1, size), np.int64) for name in ("atoms", "neighbors", "roles")}
        near = np.zeros((1, size, size), np.int64)
        feeds["roles"][0, 0] = near[0, 0, 0] = 1
        start = 1
        for part, role in parts:
            end = start + 1 + len(part.numbers)
            feeds["atoms"][0, start:end] = [1, *(part.numbers + 2)]
            feeds["neighbors"][0, start + 1 : end] = part.neighbours + 2
            feeds["roles"][0, start + 1 : end] = role
            near[0, start:end, start:end] = 1
            near[0, start + 1 : end, start + 1 : end] = part.distances + 2
            start = end
        yield {**feeds, "distances": near}


def backbone(residues: int, rng: np.random.Generator) -> np.ndarray:
    """Return positions [residues, 3, 3] of N, CA and C, in angstrom: helices and strands in turn."""
    lengths, angles = (1.33, 1.46, 1.52), np.radians((116.0, 122.0, 111.0))  # bonds that end in N, CA and C
    torsions: list[tuple[float, float]] = []
    while len(torsions) < residues:
        kind = (-60.0, -45.0) if rng.random() < 0.5 else (-120.0, 130.0)
        torsions += [kind] * int(rng.integers(4, 13))
    spread = np.radians(np.array(torsions[:residues]) + rng.normal(0, 12, (residues, 2)))
    atoms = [np.array([0.0, 0.0, 0.0]), np.array([1.46, 0.0, 0.0]), np.array([2.0, 1.42, 0.0])]
    for i in range(1, residues):
        for kind, turn in enumerate((spread[i - 1, 1], np.pi, spread[i, 0])):  # psi, omega, phi
            axis = atoms[-1] - atoms[-2]
            axis /= np.linalg.norm(axis)
            normal = np.cross(atoms[-2] - atoms[-3], axis)
            normal /= np.linalg.norm(normal)
            bend, length = np.pi - angles[kind], lengths[kind]
            side = np.cos(turn) * np.cross(normal, axis) + np.sin(turn) * normal
            atoms.append(atoms[-1] + length * (np.cos(bend) * axis + np.sin(bend) * side))
    return np.stack(atoms).reshape(residues, 3, 3)


def atoms_of(residues: int, rng: np.random.Generator) -> np.ndarray:
    """Return positions [residues, 7, 3] of a protein's atoms in RESIDUE's order, in angstrom."""
    main = backbone(residues, rng)
    lengths = np.array([1.23, 1.53, 1.01, 1.09])[:, None]
    ways = rng.normal(0, 1, (residues, 4, 3))
    ways *= lengths / np.linalg.norm(ways, axis=2, keepdims=True)
    return np.concatenate([main, main[:, [anchor for *_, anchor in RESIDUE[3:]]] + ways], axis=1)


def neighbours(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs [2, pairs] of atoms within 8 angstrom, 32 an atom at most, and their distances [pairs]."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    nearest = np.argsort(apart, axis=1)[:, 1:33]
    pairs = np.stack([nearest.ravel(), np.repeat(np.arange(len(places)), nearest.shape[1])])
    found = apart[pairs[0], pairs[1]]
    return pairs[:, found < 8], found[found < 8]


def proteins(count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield made-up proteins of 20 to 60 residues as graphs of near atoms.

    Features of residues and of their surroundings are random: of mean 0 and variance 1, or in 0..1.
    """
    rng = np.random.default_rng(0)
    for _ in range(count):
        residues, size = int(rng.integers(20, 61)), len(RESIDUE)
        places = atoms_of(residues, rng).reshape(-1, 3).astype(np.float32)
        kinds, owner = rng.integers(0, 20, residues), np.repeat(np.arange(residues), size)
        edges, apart = neighbours(places)
        steps = np.abs(owner[edges[0]] - owner[edges[1]])
        bonds = rng.random(len(steps)) < 0.01
        yield {
            "element": np.tile([element for element, *_ in RESIDUE], residues),
            "atom_role": np.tile([role for _, role, _ in RESIDUE], residues),
            "amino_acid": np.repeat(kinds, size),
            "bfactor": rng.uniform(5, 50, len(places)).astype(np.float32),
            "edge_index": edges,
            "edge_dist": apart,
            "seq_sep": np.minimum(steps, 32),
            "same_residue": (steps == 0).astype(np.float32),
            "target_indices": np.arange(residues)[:, None] * size + np.array(TARGETS),
            "target_mask": np.ones((residues, 6), bool),
            "residue_types": kinds,
            "residue_geometry": rng.normal(size=(residues, 52)).astype(np.float32),
            "target_environment": rng.normal(size=(residues, 6, 15)).astype(np.float32),
            "temperature_feature": np.zeros((residues, 1), np.float32),
            "target_atom_rsasa": rng.random((residues, 6)).astype(np.float32),
            "pos": places,
            "node_normal": np.zeros_like(places),
            "is_hbond": bonds.astype(np.float32),
            "hb_cos": np.where(bonds, rng.uniform(-1, -0.5, len(bonds)), 0).astype(np.float32),
        }
