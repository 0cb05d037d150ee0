"""What an arm computes, in one line that a reader of the field understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = {"next-token": "cross entropy", "cross-entropy": "cross entropy"}


def recipe_line(spec: Mapping[str, Any]) -> str:
    """'0.5 cross entropy + 0.5 forward-kl (temperature 2) from large; on-policy; label' and so on."""
    method = spec["method"]
    trainer = method["trainer"]
    parts = (
        [" + ".join(_term(term) for term in method["terms"])] if "terms" in method else [_component(trainer)]
    )
    if "advantage" in method:  # a policy gradient, with its terms beside it
        beside = f" + {parts[0]}" if "terms" in method else ""
        parts[0] = f"{_component(trainer)} of {_component(method['advantage'])}{beside}"
    if method["teachers"] and method["teachers"] != ["main"]:
        parts[0] += f" from {' and '.join(method['teachers'])}"
    if "rewards" in method:
        parts.append(f"rewards: {', '.join(_component(reward) for reward in method['rewards'])}")
    if "sampler" in method:
        parts.append(f"sequences: {_component(method['sampler'])}")
    if method["data"] != "train":
        parts.append(f"data: {_data(method['data'])}")
    if method.get("gradient_balance"):
        parts.append("balanced by gradients")
    if spec.get("student"):
        parts.append(f"{spec['student']} student")
    if spec.get("start") == "pretrained":
        trained = any("model" in tree or "base" in tree for tree in spec["testbed"]["students"].values())
        parts.append("from the pretrained model" if trained else "from the untrained start")
    return "; ".join(parts)


def _term(term: Mapping[str, Any]) -> str:
    weight = term.get("weight", 1.0)
    name = term.get("term") or term["divergence"]
    rest = {
        key: value
        for key, value in term.items()
        if key not in ("term", "weight") and (key != "divergence" or "term" in term)
    }
    text = _WORDS.get(name, name) + _settings(rest)
    if isinstance(weight, Mapping):
        return f"({weight['schedule']}) {text}"
    return text if weight == 1 else f"{weight:g} {text}"


def _component(tree: Mapping[str, Any]) -> str:
    return tree["name"] + _settings({key: value for key, value in tree.items() if key != "name"})


def _settings(settings: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{key} {_value(value)}' for key, value in settings.items())})" if settings else ""


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            _component(value) if "name" in value else "; ".join(f"{k} {_value(v)}" for k, v in value.items())
        )
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    if "use" in tree:
        return tree["use"] + _settings(
            {key: value for key, value in tree.items() if key not in ("use", "of")}
        )
    if "elicit" in tree:
        steps = ", then ".join(_component(step) for step in tree["elicit"])
        return steps + _settings({key: value for key, value in tree.items() if key not in ("elicit", "of")})
    if "from" in tree:
        return f"{_data(tree['from'])}{_settings({k: v for k, v in tree.items() if k != 'from'})}"
    if "join" in tree:
        return " then ".join(part if isinstance(part, str) else part["column"] for part in tree["join"])
    return " and ".join(_data(part["data"]) for part in tree["mix"])
