"""MIL heads on a CPU: ours, torchmil's and the papers' own form, on the same bags.

For ABMIL, CLAM-SB, DSMIL and TransMIL and bags of 1k, 10k and 100k embeddings of 1024: steps of
training (forward, loss, backward, AdamW) and inferences per CPU-second, one thread, the makers in
turn within each round; the figure is the median over the rounds, the ratio the median over the
rounds of ours against the faster of the others within a round. All have the same widths, dropout
and number of logits. Then the peak memory of one training step and of one inference, each in a
process of its own, above what the process held with the bag in memory.

"paper" is each paper's equations written down term by term: whole matrices of queries, values and
Nyström factors, as the authors publish them.

    python benchmarks/mil.py
    python benchmarks/mil.py --heads dsmil transmil --instances 10000 --json out.json
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from mil_models.heads import create_head
from mil_models.tasks import cross_entropy

DIM = 1024
HEADS = ("abmil", "clam_sb", "dsmil", "transmil")
MAKERS = ("ours", "torchmil", "paper")
ROUNDS = {1_000: 7, 10_000: 5, 100_000: 3}
SECONDS = 0.5
"""CPU time of a measurement, at least; the calls in it are counted."""

Step = Callable[[Tensor], Tensor]
"""From a bag (N, D) to the loss of a positive slide."""


class PaperABMIL(nn.Module):
    """Ilse et al. 2018, gated."""

    def __init__(self, hidden: int = 256, width: int = 128, classes: int = 2) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(DIM, hidden), nn.ReLU(), nn.Dropout(0.25))
        self.v = nn.Sequential(nn.Linear(hidden, width), nn.Tanh())
        self.u = nn.Sequential(nn.Linear(hidden, width), nn.Sigmoid())
        self.w = nn.Linear(width, 1)
        self.classify = nn.Linear(hidden, classes)

    def parts(self, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.project(bag)
        attention = self.w(self.v(h) * self.u(h)).T  # (1, N)
        return self.classify(attention.softmax(dim=1) @ h), h, attention

    def forward(self, bag: Tensor) -> Tensor:
        return self.parts(bag)[0]

    def loss(self, bag: Tensor) -> Tensor:
        return F.cross_entropy(self(bag), torch.tensor([1]))


class PaperCLAM(PaperABMIL):
    """Lu et al. 2021, single branch, classes that exclude each other."""

    def __init__(self) -> None:
        super().__init__(512, 256)
        self.evidence = nn.ModuleList(nn.Linear(512, 2) for _ in range(2))

    def loss(self, bag: Tensor, k: int = 8) -> Tensor:
        logits, h, attention = self.parts(bag)
        top = h[attention[0].topk(k).indices]
        bottom = h[(-attention[0]).topk(k).indices]
        targets = torch.tensor([1] * k + [0] * k)
        scores = self.evidence[1](torch.cat([top, bottom]))
        own = self.svm(scores, targets)
        other = self.svm(self.evidence[0](top), torch.zeros(k, dtype=torch.int64))
        bag_loss = F.cross_entropy(logits, torch.tensor([1]))
        return 0.7 * bag_loss + 0.3 * (own + other) / 2

    @staticmethod
    def svm(scores: Tensor, targets: Tensor) -> Tensor:
        margin = 1 - F.one_hot(targets, 2)
        own = scores.gather(1, targets[:, None])
        return (scores + margin - own).logsumexp(dim=1).mean()


class PaperDSMIL(nn.Module):
    """Li et al. 2021, with queries and values of all instances."""

    def __init__(self) -> None:
        super().__init__()
        self.instance = nn.Linear(DIM, 2)
        self.q = nn.Linear(DIM, 128)
        self.v = nn.Sequential(nn.Dropout(0.25), nn.Linear(DIM, DIM))
        self.bag = nn.Conv1d(2, 2, kernel_size=DIM)

    def forward(self, bag: Tensor) -> Tensor:
        return sum(self.streams(bag)) / 2

    def streams(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.instance(bag)  # (N, C)
        q, v = self.q(bag), self.v(bag)
        order = scores.sort(dim=0, descending=True).indices[0]
        attention = (q @ self.q(bag[order]).T / math.sqrt(128)).softmax(dim=0)  # (N, C)
        bags = attention.T @ v  # (C, D)
        return scores.max(dim=0).values[None], self.bag(bags[None])[:, :, 0]

    def loss(self, bag: Tensor) -> Tensor:
        target = torch.tensor([1])
        return sum(F.cross_entropy(logits, target) for logits in self.streams(bag)) / 2


class PaperNystrom(nn.Module):
    """Xiong et al. 2021, equation 15."""

    def __init__(self, dim: int = 512, heads: int = 8, landmarks: int = 256) -> None:
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.1))
        self.skip = nn.Conv2d(heads, heads, (33, 1), padding=(16, 0), groups=heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        length = math.ceil(count / self.landmarks)
        x = F.pad(x, (0, 0, length * self.landmarks - count, 0))
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=2)
        )
        q = q / math.sqrt(q.shape[3])
        q_marks, k_marks = (part.unflatten(2, (-1, length)).mean(dim=3) for part in (q, k))
        first = (q @ k_marks.transpose(2, 3)).softmax(dim=3)
        middle = (q_marks @ k_marks.transpose(2, 3)).softmax(dim=3)
        last = (q_marks @ k.transpose(2, 3)).softmax(dim=3)
        out = (first @ self.inverse(middle)) @ (last @ v) + self.skip(v)
        return self.out(out.transpose(1, 2).flatten(2))[:, -count:]

    @staticmethod
    def inverse(a: Tensor) -> Tensor:
        z = a.transpose(2, 3) / (a.abs().sum(dim=3).max() * a.abs().sum(dim=2).max())
        eye = torch.eye(a.shape[3])
        for _ in range(6):
            az = a @ z
            z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
        return z


class PaperTransMIL(nn.Module):
    """Shao et al. 2021, algorithm 2."""

    def __init__(self, dim: int = 512) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(DIM, dim), nn.ReLU())
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.layers = nn.ModuleList(PaperNystrom(dim) for _ in range(2))
        self.places = nn.ModuleList(
            nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim) for size in (7, 5, 3)
        )
        self.classify = nn.Linear(dim, 2)

    def forward(self, bag: Tensor) -> Tensor:
        h = self.project(bag)[None]
        side = math.ceil(math.sqrt(h.shape[1]))
        x = torch.cat([self.token, h, h[:, : side**2 - h.shape[1]]], dim=1)
        x = x + self.layers[0](self.norms[0](x))
        square = x[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        placed = square + sum(place(square) for place in self.places)
        x = torch.cat([x[:, :1], placed.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.layers[1](self.norms[1](x))
        return self.classify(self.norms[2](x)[:, 0])

    def loss(self, bag: Tensor) -> Tensor:
        return F.cross_entropy(self(bag), torch.tensor([1]))


def paper(head: str) -> nn.Module:
    kinds = {"abmil": PaperABMIL, "clam_sb": PaperCLAM, "dsmil": PaperDSMIL}
    return {**kinds, "transmil": PaperTransMIL}[head]()


class Ours(nn.Module):
    """Our head, its generator and its loss."""

    def __init__(self, head: str) -> None:
        super().__init__()
        arguments = {"clam_sb": {"subtyping": True}}.get(head, {})
        self.head = create_head(head, dim=DIM, classes=2, **arguments)
        self.generator = torch.Generator().manual_seed(0)

    def output(self, bag: Tensor) -> Any:
        mask = torch.ones(1, len(bag), dtype=torch.bool)
        return self.head(bag[None], mask, generator=self.generator)

    def forward(self, bag: Tensor) -> Tensor:
        return self.output(bag).logits

    def loss(self, bag: Tensor) -> Tensor:
        return self.head.loss(self.output(bag), torch.tensor([1]), cross_entropy)


class TorchMIL(nn.Module):
    """torchmil's head with our widths; it has one logit where we have two.

    Its CLAM trains without the clustering loss, whose targets it broadcasts wrongly: it is timed
    at an advantage.
    """

    def __init__(self, head: str) -> None:
        super().__init__()
        self.name = head
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchmil.models as peers

        def project(width: int, rate: float) -> nn.Module:
            return nn.Sequential(nn.Linear(DIM, width), nn.ReLU(), nn.Dropout(rate))

        self.head = {
            "abmil": lambda: peers.ABMIL((DIM,), 128, gated=True, feat_ext=project(256, 0.25)),
            "clam_sb": lambda: peers.CLAM_SB(
                (DIM,), 256, k_sample=8, gated=True, feat_ext=project(512, 0.25)
            ),
            "dsmil": lambda: peers.DSMIL((DIM,), 128),
            "transmil": lambda: peers.TransMIL(
                (DIM,), 512, n_heads=8, n_landmarks=256, feat_ext=project(512, 0.0)
            ),
        }[head]()

    def forward(self, bag: Tensor) -> Tensor:
        return self.head(bag[None])

    def loss(self, bag: Tensor) -> Tensor:
        if self.name == "clam_sb":  # its clustering loss fails on confident instances
            return F.binary_cross_entropy_with_logits(self(bag), torch.ones(1))
        return sum(self.head.compute_loss(torch.ones(1), bag[None])[1].values())


def build(head: str, maker: str) -> nn.Module:
    torch.manual_seed(0)
    return {"ours": Ours, "torchmil": TorchMIL, "paper": paper}[maker](head)


def make_bag(instances: int) -> Tensor:
    return torch.randn(instances, DIM, generator=torch.Generator().manual_seed(1))


def training(model: nn.Module, bag: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)  # as we train

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        model.loss(bag).backward()
        optimizer.step()

    return step


def inference(model: nn.Module, bag: Tensor) -> Callable[[], None]:
    def step() -> None:
        model.eval()
        with torch.inference_mode():
            model(bag)

    return step


KINDS = {"train": training, "infer": inference}


def rate(step: Callable[[], None]) -> float:
    """Return calls per CPU-second."""
    start, calls = time.process_time(), 0
    while time.process_time() - start < SECONDS:
        step()
        calls += 1
    return calls / (time.process_time() - start)


def speed(head: str, instances: int, kind: str, makers: list[str]) -> dict[str, float]:
    bag = make_bag(instances)
    steps = {maker: KINDS[kind](build(head, maker), bag) for maker in makers}
    if instances < 100_000:
        for step in steps.values():
            step()  # what is made once
    rounds = [{m: rate(step) for m, step in steps.items()} for _ in range(ROUNDS[instances])]
    figures = {maker: statistics.median(r[maker] for r in rounds) for maker in makers}
    others = [maker for maker in makers if maker != "ours"]
    if others:
        ratios = [r["ours"] / max(r[maker] for maker in others) for r in rounds]
        figures["ratio"] = statistics.median(ratios)
    return figures


def peak_megabytes(head: str, maker: str, instances: int, kind: str) -> float:
    """Return what one step adds to a process that holds the bag, from a process of its own."""
    command = [sys.executable, __file__, "--child", head, maker, str(instances), kind]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def child(head: str, maker: str, instances: str, kind: str) -> None:
    model = build(head, maker)
    KINDS[kind](model, make_bag(50))()  # what is made once
    step = KINDS[kind](model, make_bag(int(instances)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS)
    parser.add_argument("--instances", nargs="+", type=int, choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--makers", nargs="+", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--tables", nargs="+", choices=("speed", "memory"),
                        default=("speed", "memory"))  # fmt: skip
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        child(*arguments.child)
        return
    rows: list[dict[str, Any]] = []
    for table in arguments.tables:
        unit = "per CPU-second" if table == "speed" else "MB above the bag"
        columns = [*arguments.makers, "ratio"] if table == "speed" else arguments.makers
        print(f"\n{table}, {unit}")
        print(f"{'head':10} {'bag':>7} {'':6}" + "".join(f"{c:>11}" for c in columns))
        for head in arguments.heads:
            for instances in arguments.instances:
                for kind in KINDS:
                    if table == "speed":
                        figures = speed(head, instances, kind, arguments.makers)
                    else:
                        figures = {
                            maker: peak_megabytes(head, maker, instances, kind)
                            for maker in arguments.makers
                        }
                    rows.append({"table": table, "head": head, "instances": instances,
                                 "kind": kind, **figures})  # fmt: skip
                    cells = "".join(f"{figures.get(c, math.nan):>11.2f}" for c in columns)
                    print(f"{head:10} {instances:>7} {kind:6}{cells}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
