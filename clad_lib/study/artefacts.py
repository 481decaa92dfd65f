"""What a stage returns, on disk: safetensors, Parquet and JSON, so that nothing is unpickled."""

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from clad_lib.clad.networks import NETWORKS
from clad_lib.study.store import read_json, write_json

TENSORS, PLAIN = "tensors.safetensors", "plain.json"


def save_artefact(folder: Path, artefact: Any) -> None:
    """Write a NamedTuple into a folder.

    Fields may be arrays, tensors, DataFrames, networks of `clad.networks.NETWORKS`, plain JSON
    values, None, or NamedTuples of these.
    """
    tensors, plain = dict[str, Tensor](), dict[str, Any]()
    for name, value in _fields(artefact):
        if isinstance(value, pd.DataFrame):
            value.to_parquet(folder / f"{name}.parquet", index=False)
        elif isinstance(value, nn.Module):
            plain[name] = {"network": type(value).__name__, "shape": value.shape}
            tensors |= {f"{name}/{key}": each for key, each in value.state_dict().items()}
        elif isinstance(value, (np.ndarray, Tensor)):
            tensors[name] = torch.as_tensor(value)
        else:
            plain[name] = value
    own = {name: each.detach().cpu().clone().contiguous() for name, each in tensors.items()}
    (folder / TENSORS).write_bytes(save(own))
    write_json(folder / PLAIN, plain)


def load_artefact(folder: Path, kind: Any, *, device: Any = None) -> Any:
    """What `save_artefact` wrote, as the NamedTuple `kind`, its networks on `device` in eval mode.

    A damaged file raises whatever its reader raises.
    """
    tensors = load((folder / TENSORS).read_bytes())
    return _build(kind, "", read_json(folder / PLAIN) | tensors, folder, device)


def _fields(artefact: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in artefact._asdict().items():
        if hasattr(value, "_fields"):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _build(kind: Any, prefix: str, found: dict[str, Any], folder: Path, device: Any) -> Any:
    values = []
    for field, hint in typing.get_type_hints(kind).items():
        name = prefix + field
        if hasattr(hint, "_fields"):
            values.append(_build(hint, f"{name}.", found, folder, device))
        elif hint is pd.DataFrame:
            values.append(pd.read_parquet(folder / f"{name}.parquet"))
        elif hint is nn.Module:
            model = NETWORKS[found[name]["network"]](**found[name]["shape"])
            model.load_state_dict({key: found[f"{name}/{key}"] for key in model.state_dict()})
            values.append(model.to(device).eval())
        elif isinstance(found[name], Tensor) and hint is not Tensor:
            values.append(found[name].numpy())
        else:
            values.append(tuple(found[name]) if isinstance(found[name], list) else found[name])
    return kind(*values)
