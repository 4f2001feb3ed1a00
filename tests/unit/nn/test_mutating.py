"""A space over networks of plain torch.nn: replaced, inserted, removed and repeated modules and calls."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import nn as tnn
from torch.nn import functional

from archsearch import nn
from archsearch.nn import mutables
from archsearch.nn.mutating import (
    Insert,
    MutationError,
    Operation,
    Remove,
    Repeated,
    Replace,
    from_manifest,
    mutate,
    plain,
)
from archsearch.space import Rng, SpaceError
from archsearch.spec.load import load_experiment

EXAMPLES = Path(__file__).parents[3] / "examples"
IMAGES = torch.randn(2, 1, 8, 8)
WIDE = {"change": {"kernel_size": 5, "padding": 2}}


@pytest.fixture(autouse=True)
def _fresh_warning() -> Iterator[None]:
    mutables._warned.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nn.StandaloneWarning)
        yield


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import plain_networks  # type: ignore[import-not-found]

    yield plain_networks
    sys.modules.pop("plain_networks", None)


class Block(tnn.Module):
    """A residual block that calls functions, too."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = tnn.Conv2d(width, width, 3, padding=1)
        self.norm = tnn.BatchNorm2d(width)
        self.act = tnn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.norm(self.conv(x)))
        out = out + x
        return functional.relu(out)


class Net(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = tnn.Conv2d(1, 4, 1)
        self.body = tnn.Sequential(Block(), Block(), Block())
        self.head = tnn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return out


def names(model: tnn.Module) -> list[str]:
    return [choice.name for choice in nn.describe(model)]


def test_the_resnet_example_is_searched_and_keeps_torchs_names(networks: Any) -> None:
    spec = load_experiment(EXAMPLES / "mutate_resnet.yaml").spec.model_space
    assert spec.mutate is not None
    network = networks.ResNet(width=4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = mutate(network, [from_manifest(mutation) for mutation in spec.mutate])
    space = nn.describe(model)
    assert space.size() == 2 * 3 * (3 * (1 + 3 * 2)) ** 4
    rng = Rng(3)
    for _ in range(4):
        fixed = nn.fix(model, space.sample(rng))
        assert nn.describe(fixed).choices == ()
        assert fixed(IMAGES).shape == (2, 10)
    original = {
        f"layer{i}.{key}": value
        for i in (1, 2, 3, 4)
        for key, value in (("depth", 2), ("0.conv2", "plain"), ("1.conv2", "plain"), ("1.add", "keep"))
    }
    same = nn.fix(model, {"activation": "relu", "avgpool.before": "none", **original})
    assert list(same.state_dict()) == list(before)
    assert torch.equal(same.eval()(IMAGES), network.eval()(IMAGES))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_transformer_example_calls_what_was_put_into_it(networks: Any) -> None:
    spec = load_experiment(EXAMPLES / "mutate_transformer.yaml").spec.model_space
    assert spec.mutate is not None
    network = networks.Transformer(layers=3)
    model = mutate(network, [from_manifest(mutation) for mutation in spec.mutate])
    space = nn.describe(model)
    assert space.size() == 2 * 12 * (1 + 12) ** 2
    rng = Rng(0)
    for _ in range(6):
        fixed = nn.fix(model, space.sample(rng))
        trained = fixed.train()(IMAGES)
        with torch.no_grad():  # where torch's own layers would take their fused path
            assert torch.allclose(fixed.eval()(IMAGES), trained, atol=1e-5)
    chosen = {**space.default(), "encoder.layers.0.self_attn.num_heads": 4, "encoder.layers.0.hidden": 64}
    chosen |= {f"encoder.layers.{i}.keep.self_attn.num_heads": 4 for i in (1, 2)}
    chosen |= {f"encoder.layers.{i}.hidden": 64 for i in (1, 2)}
    same = nn.fix(model, chosen)
    same.load_state_dict(network.state_dict())
    assert torch.allclose(same.eval()(IMAGES), network.eval()(IMAGES), atol=1e-5)


def test_the_encoder_that_calls_its_layers_is_torchs_with_masks() -> None:
    torch.manual_seed(0)
    for norm_first in (False, True):
        layer = tnn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
        own = tnn.TransformerEncoder(layer, 2, norm=tnn.LayerNorm(8), enable_nested_tensor=False)
        called = mutate(own, [Replace("*.norm1", {"keep": "keep", "none": "identity"}, label="norm")])
        assert type(called) is plain.CalledEncoder
        x, mask = torch.randn(2, 5, 8), tnn.Transformer.generate_square_subsequent_mask(5)
        padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        kept = nn.fix(called, {"norm": "keep"})
        assert torch.allclose(kept(x, mask=mask, is_causal=True), own(x, mask=mask, is_causal=True), atol=1e-6)
        assert torch.allclose(kept(x, src_key_padding_mask=padding), own(x, src_key_padding_mask=padding), atol=1e-6)
        assert not torch.allclose(nn.fix(called, {"norm": "none"}).eval()(x), own.eval()(x))


def test_what_a_candidate_may_be() -> None:
    shared = tnn.Conv2d(4, 4, 1)
    model = mutate(
        Net(),
        [
            Replace(
                "body.0.conv",
                {
                    "keep": "keep",
                    "class": tnn.Identity,
                    "name": "torch.nn.Identity",
                    "short": "Identity",
                    "spec": {
                        "type": "torch.nn.Conv2d",
                        "args": {
                            "in_channels": "$in",
                            "out_channels": "$out",
                            "kernel_size": "$kernel",
                            "padding": "$padding",
                        },
                    },
                    "change": WIDE,
                    "list": [
                        "keep",
                        "torch.nn.ReLU",
                        {"type": tnn.BatchNorm2d, "args": {"num_features": "2 * $out - 4"}},
                    ],
                    "module": shared,
                    "function": lambda conv: tnn.Sequential(conv, tnn.Dropout(0.1)),
                    "remove": "remove",
                },
            ),
            Replace("body.1.conv", [WIDE, shared]),
        ],
    )
    space = nn.describe(model)
    assert space["body.1.conv"].options == ("0", "1")
    for name in space["body.0.conv"].options:
        fixed: Any = nn.fix(model, {"body.0.conv": name, "body.1.conv": "1"})
        assert fixed(IMAGES).shape == (2, 3)
    fixed = nn.fix(model, {"body.0.conv": "change", "body.1.conv": "0"})
    assert (fixed.body[0].conv.kernel_size, fixed.body[1].conv.padding) == ((5, 5), (2, 2))
    assert isinstance(nn.fix(model, {"body.0.conv": "remove", "body.1.conv": "0"}).body[0].conv, plain.Skip)  # type: ignore[union-attr, index]
    module = model.get_submodule("body.0.conv")
    assert isinstance(module, nn.LayerChoice)
    assert module["module"] is not shared


def test_changed_arguments_of_modules_that_keep_them_elsewhere() -> None:
    attention = tnn.MultiheadAttention(8, 2, bias=False, add_bias_kv=True, batch_first=True)
    layer = tnn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, activation=functional.gelu, bias=False)
    net = tnn.ModuleDict({"a": attention, "l": layer, "r": tnn.LSTM(3, 4, 2, bidirectional=True)})
    changed: Any = mutate(
        net,
        [
            Replace("a", with_={"change": {"num_heads": 4}}),
            Replace("l", with_={"change": {"nhead": 4}}),
            Replace("r", with_={"change": {"hidden_size": 5}}),
        ],
    )
    assert (changed["a"].num_heads, changed["a"].in_proj_bias, changed["a"].batch_first) == (4, None, True)
    assert changed["a"].bias_k is not None
    assert (changed["l"].self_attn.num_heads, changed["l"].linear1.out_features) == (4, 16)
    assert (changed["l"].dropout.p, changed["l"].linear1.bias) == (0.3, None)
    assert changed["l"].activation is functional.gelu
    assert (changed["r"].hidden_size, changed["r"].num_layers, changed["r"].bidirectional) == (5, 2, True)


def test_values_labels_and_templates() -> None:
    operations = [
        Replace(
            "body.?.conv",
            with_={"change": {"kernel_size": "$k", "padding": "($k - 1) // 2"}},
            values={"k": {"choice": [3, 5], "label": "{parent}.kernel"}},
        ),
        Replace(
            "body.?.act",
            {"relu": "keep", "elu": {"type": "ELU", "args": {"alpha": "$a"}}},
            label="act",
            values={"a": [1.0, 0.5]},
        ),
    ]
    model = mutate(Net(), operations)
    space = nn.describe(model)
    assert {c.name for c in space} == {f"body.{i}.kernel" for i in range(3)} | {"act"} | {
        f"body.{i}.act.elu.alpha" for i in range(3)
    }
    chosen = {**space.default(), "act": "relu", "body.1.kernel": 5}
    fixed: Any = nn.fix(model, chosen)
    assert [block.conv.kernel_size for block in fixed.body] == [(3, 3), (5, 5), (3, 3)]
    width = nn.ValueChoice([2, 8], label="width")
    wider = {"type": "Conv2d", "args": {"in_channels": 4, "out_channels": "$w", "kernel_size": 1}}
    back = {"type": "Conv2d", "args": {"in_channels": "$w", "out_channels": 4, "kernel_size": 1}}
    shared = mutate(Net(), [Replace("body.0.conv", ["keep", ["keep", wider, back]], values={"w": width})])
    assert names(shared) == ["body.0.conv", "width"]
    assert nn.fix(shared, {"body.0.conv": "1", "width": 8})(IMAGES).shape == (2, 3)


def test_inserted_modules_leave_no_trace_where_none_is_chosen() -> None:
    candidates = {"none": "identity", "norm": {"type": "BatchNorm2d", "args": {"num_features": "$out"}}}
    model = mutate(
        Net(),
        [
            Insert("body.0.conv", candidates),
            Insert("body.*.conv", {"none": "identity", "drop": "torch.nn.Dropout"}, before=True),
            Replace("body.1.conv", {"keep": "keep", "wide": WIDE}),
        ],
    )
    assert names(model) == [
        "body.0.conv.before",
        "body.0.conv.after",
        "body.1.conv.before",
        "body.1.conv",
        "body.2.conv.before",
    ]
    default = nn.describe(model).default()
    assert list(nn.fix(model, default).state_dict()) == list(Net().state_dict())
    both = nn.fix(model, {**default, "body.0.conv.after": "norm", "body.0.conv.before": "drop", "body.1.conv": "wide"})
    assert both(IMAGES).shape == (2, 3)
    assert {key for key in both.state_dict() if key.startswith("body.0.conv.inserted")} == {
        f"body.0.conv.inserted.{key}" for key in tnn.BatchNorm2d(4).state_dict()
    }


def test_calls_are_replaced_inserted_and_removed() -> None:
    model = mutate(
        Net(),
        [
            Remove("body.1", call="add"),
            Insert("body.2", {"none": "identity", "drop": "torch.nn.Dropout2d"}, call="relu", before=True),
            Insert("body.2", {"none": "identity", "tanh": "torch.nn.Tanh"}, call="torch.nn.functional.relu"),
            Replace("body.*", {"relu": "keep", "gelu": tnn.GELU}, call=functional.relu, label="last"),
            Replace("body.*.conv", {"keep": "keep", "wide": WIDE}),
        ],
    )
    space = nn.describe(model)
    calls = {"last", "body.1.add", "body.2.relu_before", "body.2.relu_after"}
    assert set(names(model)) == calls | {f"body.{i}.conv" for i in range(3)}
    torch.manual_seed(0)
    net = Net().eval()
    fixed = nn.fix(mutate(net, [Remove("body.1", call="add")]), {"body.1.add": "keep"})
    assert torch.equal(fixed(IMAGES), net(IMAGES))
    assert list(fixed.state_dict()) == list(net.state_dict())
    removed = nn.fix(mutate(net, [Remove("body.1", call="add")]), {"body.1.add": "remove"})
    x = torch.rand(1, 4, 3, 3)
    block = net.body[1]
    assert torch.equal(removed.get_submodule("body.1")(x), functional.relu(block.act(block.norm(block.conv(x)))))  # type: ignore[operator]
    rng = Rng(5)
    for _ in range(8):
        assert nn.fix(model, space.sample(rng))(IMAGES).shape == (2, 3)


def test_methods_keywords_and_constants_of_calls_are_kept() -> None:
    class Odd(tnn.Module):
        def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
            both = torch.cat([x, x[:, 1:]], dim=1)
            return both.clamp(min=-1.0).transpose(0, 1) * scale

    odd = Odd()
    for call in ("cat", "getitem", "clamp", "transpose", "mul"):
        model = mutate(odd, [Replace("", {"keep": "keep", "skip": "identity"}, call=call)])
        kept = nn.fix(model, {call: "keep"})
        x = torch.randn(3, 3)
        assert torch.equal(kept(x), odd(x))
        assert torch.equal(kept(x, scale=3.0), odd(x, scale=3.0))


def test_places_inside_a_replaced_module_and_below_a_removed_one() -> None:
    model = mutate(
        Net(),
        [
            Replace("body.1", {"keep": "keep", "none": "identity"}),
            Replace("body.?.conv", {"keep": "keep", "wide": WIDE}),
            Repeated("body", (1, 3)),
        ],
    )
    assert names(model) == ["body.depth", "body.0.conv", "body.1", "body.1.keep.conv", "body.2.conv"]
    space = nn.describe(model)
    assert space.size() == 2 + 2 * 3 + 2 * 3 * 2
    fixed: Any = nn.fix(model, {"body.depth": 2, "body.0.conv": "wide", "body.1": "keep", "body.1.keep.conv": "wide"})
    assert len(fixed.body) == 2
    gone = mutate(Net(), [Remove("body.1", always=True), Replace("body.?.conv", {"keep": "keep", "wide": WIDE})])
    assert names(gone) == ["body.0.conv", "body.2.conv"]
    copies = mutate(Net(), [Repeated("body.0", nn.ValueChoice([1, 2], label="copies"))])
    assert len(list(nn.fix(copies, {"copies": 2}).get_submodule("body.0").children())) == 2


def test_a_module_in_two_places_is_replaced_in_both_and_the_outermost_is_taken() -> None:
    act = tnn.ReLU()
    net = tnn.Sequential(tnn.Linear(2, 2), act, tnn.Sequential(tnn.Linear(2, 2), act))
    model: Any = mutate(net, [Replace(type=tnn.ReLU, candidates={"relu": "keep", "tanh": tnn.Tanh})])
    assert names(model) == ["1"]
    fixed: Any = nn.fix(model, {"1": "tanh"})
    assert isinstance(fixed[1], tnn.Tanh)
    assert isinstance(fixed[2][1], tnn.Tanh)
    assert names(mutate(Net(), [Remove("body.*")])) == ["body.0", "body.1", "body.2"]
    half = mutate(Net().double(), [Replace("body.0.conv", {"wide": WIDE})])
    assert nn.fix(half, {"body.0.conv": "wide"})(IMAGES.double()).dtype == torch.float64


class Untraceable(tnn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x) if x.sum() > 0 else x


class Moody(tnn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(functional.dropout(x, 0.5, self.training))


KEEP = {"keep": "keep"}


def conv(**args: Any) -> dict[str, Any]:
    return {"a": {"type": "Conv2d", "args": {"in_channels": 1, "out_channels": 1, "kernel_size": 1, **args}}}


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (
            [Replace("body.0.cnv", KEEP)],
            r"mutate\[0\] \(replace 'body.0.cnv'\): fits no modules; it has 'body.0.conv'",
        ),
        (
            [Replace("body.0.conv", KEEP), Replace(type=tnn.Conv2d, candidates=KEEP)],
            r"mutate\[1\].*body.0.conv is replaced by replace 'body.0.conv' already; .*narrow match",
        ),
        ([Replace("stem", {"a": "Conv3"})], r"stem: torch.nn has no 'Conv3'; did you mean torch.nn.Conv3d\?"),
        ([Replace("stem", {"a": "nowhere:Net"})], r"stem: nowhere:Net is not there"),
        ([Replace("stem", {"a": "torch:relu"})], r"stem: torch:relu is no class of torch.nn.Module"),
        (
            [Replace("stem", conv(in_channel=1))],
            r"stem: candidate 'a': Conv2d does not take the arguments .*in_channel.*its signature is",
        ),
        (
            [Replace("stem", conv(out_channels="$inn"))],
            r"candidate 'a', argument 'out_channels': there is no \$inn: a Conv2d stands here",
        ),
        ([Replace("stem", conv(out_channels="$weight"))], r"\$weight is a Parameter; expected a number"),
        ([Replace("stem", conv(out_channels="$in ** 2"))], r"'\$in \*\* 2' cannot be computed"),
        ([Replace("stem", conv(groups=2))], r"Conv2d cannot be made with .*divisible by groups"),
        ([Replace("stem", {"a": 3})], r"candidate 'a' is 3; expected keep, identity"),
        ([Replace("stem", {"a": lambda _: 3})], r"stem: candidate 'a' made a int"),
        (
            [Replace("body.0", {"a": {"change": {"width": "$width"}}})],
            r"body.0: candidate 'a', argument 'width': there is no \$width",
        ),
        (
            [Replace("body.0", {"a": {"change": {}}})],
            r"Block does not keep its argument 'width' as an attribute; give it in change too",
        ),
        ([Insert("stem", {"a": "keep"})], r"stem: candidate 'a': there is nothing to keep"),
        ([Repeated("body", (1, 4))], r"body has 3 modules: .*3 blocks are too few for a depth of 4"),
        ([Replace("body.0", KEEP, call="gelu")], r"no forward of 'body.0' calls it: they call add, relu; name one"),
        ([Replace("stem", KEEP, call="relu")], r"fits no modules of the network's own with a forward"),
        ([Replace("body.0", KEEP, call="torch.rellu")], r"there is no function 'torch.rellu'"),
    ],
)
def test_wrong_operations_name_place_and_remedy(operations: list[Operation], message: str) -> None:
    with pytest.raises(MutationError, match=message):
        mutate(Net(), operations)


@pytest.mark.parametrize(
    ("module", "operation", "message"),
    [
        (
            Untraceable(),
            Replace("0", KEEP, call="relu"),
            r"0: torch.fx cannot trace the forward of Untraceable: .*; make the call a submodule",
        ),
        (
            Moody(),
            Replace("0", KEEP, call="relu"),
            r"0: the forward of Moody calls something else in training than in evaluation.*torch.nn.Dropout",
        ),
        (
            tnn.MultiheadAttention(4, 2),
            Replace("0.out_proj", KEEP),
            r"0.out_proj: torch's MultiheadAttention reads the parameters.*replace 0 as a whole",
        ),
        (tnn.MultiheadAttention(4, 2), Remove("0"), r"passes on its input, but MultiheadAttention gives a tuple"),
        (tnn.ModuleList([tnn.ReLU()]), Remove("0"), r"a ModuleList is never called; match what is in it \(0\.\*\)"),
    ],
)
def test_modules_that_cannot_be_changed_so(module: tnn.Module, operation: Operation, message: str) -> None:
    with pytest.raises(MutationError, match=message):
        mutate(tnn.Sequential(module), [operation])


def test_hooks_are_not_lost_in_silence() -> None:
    net = Net()
    net.body[0].register_forward_hook(lambda *_: None)
    with pytest.raises(MutationError, match=r"body.0: Block has forward hooks, which tracing would lose"):
        mutate(net, [Remove("body.0", call="add")])


def test_labels_with_different_candidates_name_both_places() -> None:
    model = mutate(Net(), [Replace("stem", KEEP, label="x"), Replace("head", {"other": "keep"}, label="x")])
    with pytest.raises(SpaceError, match="share the label 'x' but differ: stem offers one of keep, head offers"):
        nn.describe(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replace(candidates=KEEP), "give match, type or call"),
        (lambda: Replace("a"), "exactly one of candidates and with_"),
        (lambda: Replace("a", {}), "at least one candidate"),
        (lambda: Repeated("a"), "give a depth"),
    ],
)
def test_operations_that_say_too_little(make: Callable[[], object], message: str) -> None:
    with pytest.raises(MutationError, match=message):
        make()
