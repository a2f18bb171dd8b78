# ruff: noqa: E501 - a mistake stands in the line that it makes
"""What operators can't reach: mistakes in each structural feature, written by hand, for every port that has it.

A mistake is put in before the port's Config, in place of what the port imports.
"""

from __future__ import annotations

from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

PLACE = "@dataclass(frozen=True)\nclass Config:"
TORCH = "import torch\nfrom torch import Tensor\n"

FREQUENCIES = """
class RopeConfig(RopeConfig):
    def frequencies(self, length: int) -> tuple[Tensor, float]:
        found, factor = super().frequencies(length)
        return {}
"""
SCALING = """
class RopeConfig(RopeConfig):
    def frequencies(self, length: int) -> tuple[Tensor, float]:
        import ptw.nn.rope as rope
        scaling = dict(self.scaling)
        {}
        return rope.RopeConfig(self.rope_type, self.theta, self.width, self.max_positions, scaling).frequencies(
            {}length)
"""
ROTATION = """
class Turned(Rotation):
    def __call__(self, x):
        cos, sin, width = self.cos, self.sin, self.cos.shape[-1]
        {}

class {rope}({rope}):
    def forward(self, hidden_BTD, layout):
        found = super().forward(hidden_BTD, layout)
        if isinstance(found, dict):
            return {{kind: Turned(one.cos, one.sin) for kind, one in found.items()}}
        return Turned(found.cos, found.sin)
"""
ANGLES = """
class {rope}({rope}):
    def forward(self, hidden_BTD, layout):
        found = super().forward(hidden_BTD, layout)
        if isinstance(found, dict):
            return {{kind: Rotation({cos}, {sin}) for kind, one in found.items()}}
        one = found
        return Rotation({cos}, {sin})
"""
ATTEND = """
right_attend = attend
def attend(query, key, value, layout, cache=None, **options):
    {}
    return right_attend(query, key, value, layout, cache, **options)
"""
NORM = """
class {norm}({norm}):
    def forward(self, hidden: Tensor) -> Tensor:
        {}
"""
HEAD = """
class Head(Head):
    {}
"""
GROUPS = """
class Groups(Groups):
    {}
"""

FREQUENCY_MISTAKES = {
    "attention factor of the RoPE forgotten": "found, 1.0",
    "attention factor of the RoPE on cos and sin twice": "found, factor * factor",
    "attention factor of the RoPE one percent off": "found, factor * (1.01 if factor != 1.0 else 1.0)",
    "inverse frequencies in bf16": "found.bfloat16().to(found.dtype), factor",
    "inverse frequencies in bf16 where they are fp32": "(found if found.dtype == torch.float64 else "
    "found.bfloat16().float()), factor",
    "inverse frequencies the other way round": "found.flip(-1), factor",
    "slowest frequency twice": "torch.cat((found[:-1], found[-2:-1])), factor",
    "frequencies one place late": "found * self.theta ** (-2 / self.width), factor",
}
SCALING_MISTAKES = {
    "YaRN always truncates": ("scaling['truncate'] = True", ""),
    "YaRN never truncates": (
        "scaling['truncate'] = False if self.rope_type == 'yarn' else scaling.pop('truncate', 0)",
        "",
    ),
    "YaRN's bounds at their defaults": ("scaling.pop('beta_fast', 0), scaling.pop('beta_slow', 0)", ""),
    "attention_factor not read": ("scaling.pop('attention_factor', 0)", ""),
    "mscale not read": ("scaling.pop('mscale', 0)", ""),
    "factor one percent off": (
        "scaling.update(factor=1.01 * scaling['factor']) if 'factor' in scaling else 0",
        "",
    ),
    "length without effect": ("pass", "0 * "),
    "length off by one": ("pass", "1 + "),
}
ROTATION_MISTAKES = {
    "pairs interleaved": "first, second = x[..., :width:2], x[..., 1:width:2]\n"
    "        half = torch.stack((-second, first), -1).flatten(-2)\n"
    "        return torch.cat((x[..., :width] * cos + half * sin, x[..., width:]), -1)",
    "turned the other way": "return Rotation(cos, -sin)(x)",
    "last dimensions turned": "return torch.cat((x[..., width:], Rotation(cos, sin)(x[..., :width])), -1) "
    "if width < x.shape[-1] else Rotation(cos, sin)(x.flip(-1)).flip(-1)",
    "only half turned": "y = Rotation(cos, sin)(x)\n        return torch.cat((y[..., : width // 2], x[..., width // 2 :]), -1)",
    "last pair left": "y = Rotation(cos, sin)(x)\n"
    "        return torch.cat((y[..., : width // 2 - 1], x[..., width // 2 - 1 : width // 2], y[..., width // 2 :]), -1)",
    "turned in bf16": "return Rotation(cos, sin)(x.bfloat16().to(x.dtype))",
    "turning detached": "y = Rotation(cos, sin)(x)\n        return x + (y - x).detach()",
}
ANGLE_MISTAKES = {
    "cos and sin in bf16": ("one.cos.bfloat16().to(one.cos.dtype)", "one.sin.bfloat16().to(one.sin.dtype)"),
    "angles of row 0 for all": ("one.cos[:1].expand_as(one.cos)", "one.sin[:1].expand_as(one.sin)"),
    "cos from sin": ("(1 - one.sin**2).clamp(min=0).sqrt()", "one.sin"),
}
ATTENTION_MISTAKES = {
    "window wider by one": "options['window'] = options['window'] + 1 if options.get('window') else None",
    "window narrower by one": "options['window'] = options['window'] - 1 if options.get('window') else None",
    "window forgotten with a cache": "options['window'] = options.get('window') if cache is None else None",
    "window forgotten while packed": "options['window'] = options.get('window') if cache is not None else None",
    "query heads in another order": "query = query.unflatten(2, (key.shape[2], -1)).transpose(2, 3).flatten(2, 3)",
    "first key head for all": "key = key[:, :, :1].expand_as(key)",
    "values one token late": "value = value.roll(1, 1)",
    "keys in bf16": "key = key.bfloat16().to(key.dtype)",
    "scale in bf16": "options['scale'] = torch.tensor(options['scale']).bfloat16().item()",
    "attention detached": "query, key = query.detach(), key.detach()",
    "queries detached": "query = query.detach()",
    "values in pairs": "value = value.clone(); value[:, 1::2] = value[:, 1::2] + 0 * value[:, ::2][:, : value[:, 1::2].shape[1]] "
    "; value[:, -1] = value[:, -1] * 1.0001",
}
SINK_MISTAKES = {
    "sinks forgotten": "options['sinks_N'] = None",
    "sinks doubled": "options['sinks_N'] = options['sinks_N'] * 2",
    "sinks of other heads": "options['sinks_N'] = options['sinks_N'].roll(1)",
    "one sink for all heads": "options['sinks_N'] = options['sinks_N'].mean().expand_as(options['sinks_N'])",
    "sinks scaled with the logits": "options['sinks_N'] = options['sinks_N'] * options['scale']",
    "sinks detached": "options['sinks_N'] = options['sinks_N'].detach()",
    "sinks forgotten with a cache": "options['sinks_N'] = options['sinks_N'] if cache is None else None",
    "sinks in bf16": "options['sinks_N'] = options['sinks_N'].bfloat16().to(options['sinks_N'].dtype) + 0.001 * 0",
}
NORM_MISTAKES = {
    "norm without upcast": "n = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)\n        return n * {w}",
    "epsilon beside the root": "wide = hidden.float()\n        n = wide / (wide.pow(2).mean(-1, keepdim=True).sqrt() + self.eps)\n"
    "        return ({w} * n).to(hidden.dtype)",
    "mean taken off": "return super().forward(hidden - hidden.mean(-1, keepdim=True))",
    "no mean square": "return (hidden.float() * torch.rsqrt(hidden.float().pow(2).sum(-1, keepdim=True) + self.eps) * {w}).to(hidden.dtype)",
    "variance detached": "wide = hidden.float()\n        n = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps).detach()\n"
    "        return (n * {w}).to(hidden.dtype)",
    "weight detached": "return super().forward(hidden) + 0 * self.weight.detach() if not self.weight.requires_grad else "
    "(super().forward(hidden) / {w} * ({w}).detach())",
    "weight rounded to bf16 first": "wide = hidden.float()\n        n = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)\n"
    "        return (n * ({w}).to(torch.bfloat16)).to(hidden.dtype)",
    "weight the other way": "return (super().forward(hidden) / {w} * ({v})).to(hidden.dtype)",
    "norm of the last half": "return torch.cat((hidden[..., :1], super().forward(hidden)[..., 1:]), -1)",
    "root in bf16": "wide = hidden.float()\n        root = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)\n"
    "        return (wide * root.to(hidden.dtype) * {w}).to(hidden.dtype)",
}
HEAD_MISTAKES = {
    "loss over padded rows": "def loss(self, hidden_BTD, targets_BT):\n"
    "        x = hidden_BTD[targets_BT != -100] / self.divisor @ self.weight_VD.T\n"
    "        x = x if self.cap is None else torch.tanh(x / self.cap) * self.cap\n"
    "        return torch.nn.functional.cross_entropy(x.float(), targets_BT[targets_BT != -100], reduction='sum')",
    "loss a mean": "def loss(self, hidden_BTD, targets_BT):\n"
    "        return super().loss(hidden_BTD, targets_BT) / (targets_BT != -100).sum()",
    "loss of ignored tokens": "def loss(self, hidden_BTD, targets_BT):\n"
    "        return super().loss(hidden_BTD, targets_BT.clamp(min=0))",
    "loss without a cap or divisor": "def loss(self, hidden_BTD, targets_BT):\n"
    "        h = hidden_BTD[targets_BT != -100]\n"
    "        x = h @ self.weight_VD[: self.vocabulary].T * 1.0\n"
    "        x = x if self.cap is None and self.divisor == 1.0 else x + 0\n"
    "        return torch.nn.functional.cross_entropy(x.float(), targets_BT[targets_BT != -100], reduction='sum') * 1.0001",
    "loss of the token before": "def loss(self, hidden_BTD, targets_BT):\n"
    "        return super().loss(hidden_BTD, targets_BT.roll(1, 1))",
    "loss with the last token left out": "def loss(self, hidden_BTD, targets_BT):\n"
    "        return super().loss(hidden_BTD[:, :-1], targets_BT[:, :-1])",
    "loss twice": "def loss(self, hidden_BTD, targets_BT):\n        return 2 * super().loss(hidden_BTD, targets_BT)",
    "head learns nothing": "def loss(self, hidden_BTD, targets_BT):\n"
    "        return Head.__mro__[1](self.weight_VD.detach(), self.vocabulary, self.divisor, self.cap).loss(hidden_BTD, targets_BT)",
    "smoothed loss": "def loss(self, hidden_BTD, targets_BT):\n"
    "        return super().loss(hidden_BTD, targets_BT) * (1 - 1e-6)",
    "logits of two tokens swapped": "def logits(self, hidden):\n        x = super().logits(hidden)\n"
    "        return torch.cat((x[..., 1:2], x[..., :1], x[..., 2:]), -1)",
    "logits rounded to bf16": "def logits(self, hidden):\n        x = super().logits(hidden)\n        return x.bfloat16().to(x.dtype)",
}
GROUP_MISTAKES = {
    "shares forgotten": "def sum(self, out_RD, weight_TK):\n        return super().sum(out_RD, torch.ones_like(weight_TK))",
    "shares detached": "def sum(self, out_RD, weight_TK):\n        return super().sum(out_RD, weight_TK.detach())",
    "shares in another order": "def sum(self, out_RD, weight_TK):\n        return super().sum(out_RD, weight_TK.flip(-1))",
    "shares in bf16": "def sum(self, out_RD, weight_TK):\n        return super().sum(out_RD, weight_TK.bfloat16().to(weight_TK.dtype))",
    "experts' inputs detached": "def rows(self, hidden_TD):\n        return super().rows(hidden_TD.detach())",
    "inputs weighted, not outputs": "def sum(self, out_RD, weight_TK):\n        return super().sum(out_RD, weight_TK * weight_TK / weight_TK.sum(-1, keepdim=True))",
}
# what is said in a port itself: old, new
SAID = {
    "window pattern late by one": (("(layer + 1) % pattern", "layer % pattern"), ("FULL if layer % 2", "FULL if (layer + 1) % 2")),
    "local RoPE for all": (("rotations[self.kind]", "rotations[SLIDING] if SLIDING in rotations else rotations[self.kind]"),),
    "global RoPE for all": (("rotations[self.kind]", "rotations[FULL] if FULL in rotations else rotations[self.kind]"),),
    "query, key and value in blocks": (
        ("heads = (*hidden_BTD.shape[:2], -1, 3 * self.head_dim)", "heads = (*hidden_BTD.shape[:2], -1, self.head_dim)"),
        (".view(heads).chunk(3, dim=-1)", ".view(heads).chunk(3, dim=-2)"),
    ),
    "gate and up in halves": (("gate_up[..., ::2]", "gate_up.chunk(2, -1)[0]"), ("gate_up[..., 1::2]", "gate_up.chunk(2, -1)[1]")),
    "gate and up alternating": ((".chunk(2, dim=-1)\n        out", ".unflatten(-1, (-1, 2)).unbind(-1)\n        out"),),
    "clamp of the gate on both sides": ((".clamp(max=self.limit)", ".clamp(min=-self.limit, max=self.limit)"),),
    "clamp after the product": (
        (".clamp(max=self.limit)", ""),
        ("return (up + 1) * (gate * torch.sigmoid(gate * self.alpha))", "return ((up + 1) * (gate * torch.sigmoid(gate * self.alpha))).clamp(max=self.limit)"),
    ),
    "softmax before the choice": (
        ("logits_TK, expert_TK = logits_TE.topk", "logits_TK, expert_TK = logits_TE.softmax(-1).topk"),
        ("return logits_TK.softmax(dim=-1), expert_TK", "return logits_TK / logits_TK.sum(-1, keepdim=True) ** 1.0, expert_TK"),
    ),
    "shares of all experts": (
        ("return logits_TK.softmax(dim=-1), expert_TK", "return logits_TE.softmax(-1).gather(-1, expert_TK), expert_TK"),
    ),
    "softmax after the choice": (
        ("logits_TE.softmax(dim=-1, dtype=torch.float32).topk(self.chosen, dim=-1)", "logits_TE.topk(self.chosen, dim=-1)"),
        ("return share_TK.to(logits_TE.dtype)", "return share_TK.softmax(-1).to(logits_TE.dtype)"),
    ),
    "renormalised always": (("if self.renormalised:", "if True:"),),
    "renormalised never": (("if self.renormalised:", "if False:"),),
    "router softmax in the compute dtype": ((".softmax(dim=-1, dtype=torch.float32)", ".softmax(dim=-1)"),),
    "router's bias in the choice only": (
        ("functional.linear(hidden_TD, self.weight, self.bias)\n        logits_TK, expert_TK = logits_TE.topk(self.chosen, dim=-1)",
         "functional.linear(hidden_TD, self.weight)\n        expert_TK = (logits_TE + self.bias).topk(self.chosen, dim=-1)[1]\n"
         "        logits_TK = logits_TE.gather(-1, expert_TK)"),
    ),
    "parallel block in a row": (("if self.is_parallel:", "if False:"),),
    "row block in parallel": (("if self.is_parallel:", "if True:"),),
    "one norm for both branches": (("self.mlp(self.post_attention_layernorm(hidden_BTD)))\n            return", "self.mlp(self.input_layernorm(hidden_BTD)))\n            return"),),
    "norm of the latents with the model's epsilon": (("LATENT_EPS)", "config.rms_norm_eps)"),),
    "norm of the query's latent forgotten": (("self.q_a_layernorm(self.q_a_proj(hidden_BTD))", "self.q_a_proj(hidden_BTD)"),),
    "YaRN's correction once": (("+ 1.0) ** 2", "+ 1.0)"),),
    "YaRN's correction forgotten": (("self.scale = width**-0.5 * config.sharpness", "self.scale = width**-0.5"),),
    "residual not scaled": (("config.scale_depth", "math.sqrt(config.num_hidden_layers)"),),
    "embedding not scaled": (("config.hidden_size**0.5\n", "1.0\n"), ("config.scale_emb", "1.0")),
    "embedding scaled, not rounded": (("config.hidden_size**0.5\n", "float(config.hidden_size) ** 0.5 * (1 + 2**-12)\n"),),
    "norm after the residual": (
        ("hidden_BTD = hidden_BTD + self.post_attention_layernorm(attended_BTD)", "hidden_BTD = self.post_attention_layernorm(hidden_BTD + attended_BTD)"),
    ),
    "no norm after the attention": (("self.post_attention_layernorm(attended_BTD)", "attended_BTD"),),
    "no norm after the MLP": (("self.post_feedforward_layernorm(mixed_BTD)", "mixed_BTD"),),
    "query scale from the head's width": (("config.query_pre_attn_scalar**-0.5", "config.head_dim**-0.5"),),
    "query and key norms shared": (("self.k_norm(self.k_proj", "self.q_norm(self.k_proj"),),
    "norm over all heads": (("self.q_norm(self.q_proj(hidden_BTD).view(heads))", "self.q_proj(hidden_BTD).view(heads) * self.q_norm(self.q_proj(hidden_BTD).view(heads)).norm(dim=(-1, -2), keepdim=True) / self.q_proj(hidden_BTD).view(heads).norm(dim=(-1, -2), keepdim=True)"),),
    "padding token learns": (("config.pad_token_id", "None"),),
}  # fmt: skip


def edits(source: Source) -> Iterator[Edit]:
    for name, text in _put_in(source):
        at = source.text.encode().index(PLACE.encode())
        yield Edit(name, ((at, at, f"{TORCH}\n{text}\n\n"),))
    for name, changes in SAID.items():
        places = [(source.bytes.find(old.encode()), old, new) for old, new in changes]
        found = tuple((at, at + len(old.encode()), new) for at, old, new in places if at >= 0)
        if found:
            yield Edit(name, found)


def _put_in(source: Source) -> Iterator[tuple[str, str]]:
    """Name and text of each mistake in what this port imports."""
    text = source.text
    rope = "Ropes" if "Ropes(" in text else "Rope"
    if "RopeConfig" in text:
        yield from ((name, FREQUENCIES.format(what)) for name, what in FREQUENCY_MISTAKES.items())
        yield from ((name, SCALING.format(*what)) for name, what in SCALING_MISTAKES.items())
        for name, what in ROTATION_MISTAKES.items():
            yield (
                name,
                ROTATION.replace("{rope}", rope).replace("{}", what).replace("{{", "{").replace("}}", "}"),
            )
        for name, (cos, sin) in ANGLE_MISTAKES.items():
            yield name, ANGLES.format(rope=rope, cos=cos, sin=sin)
    yield from ((name, ATTEND.format(what)) for name, what in ATTENTION_MISTAKES.items())
    if "sinks_N" in text:
        yield from ((name, ATTEND.format(what)) for name, what in SINK_MISTAKES.items())
    for norm, weight, other in (
        ("CentredRMSNorm", "(1.0 + self.weight.float())", "self.weight.float()"),
        ("RMSNorm", "self.weight", "(1.0 + self.weight)"),
    ):
        if f" {norm}\n" in text or f" {norm}(" in text:
            for name, what in NORM_MISTAKES.items():
                yield name, NORM.replace("{norm}", norm).replace("{}", what.format(w=weight, v=other))
            break
    yield from ((name, HEAD.format(what)) for name, what in HEAD_MISTAKES.items())
    if "Groups" in text:
        yield from ((name, GROUPS.format(what)) for name, what in GROUP_MISTAKES.items())
