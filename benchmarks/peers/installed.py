"""Find the peers of a benchmark that are not installed."""

from __future__ import annotations

from importlib.util import find_spec

PEERS = {
    "torch": "PyTorch",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "faiss": "faiss",
    "sklearn": "scikit-learn",
    "open_clip": "open_clip",
}


def missing_peers(*modules: str, requirements: str) -> str | None:
    """Return an error message that names the peers to install; None if all `modules` are installed."""
    missing = [PEERS[module] for module in modules if find_spec(module) is None]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    peers = "peer" if len(modules) == 1 else "peers"
    names = " and ".join(missing)
    return f"error: {names} {verb} not installed ({peers} of this benchmark). Run `pip install -r {requirements}`."
