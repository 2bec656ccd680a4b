"""Texts of classes for a folder of images: the default is logged with the way to change it."""

import pytest

from adapt.embedding.encoder import Encoder
from adapt.photos.templates import choose_templates
from models.checkpoints.io import save_checkpoint
from tests.logged import logged
from tests.models.tiny_models import tiny_checkpoint


@pytest.mark.parametrize(
    ("given", "chosen", "is_logged"),
    [(None, ("a photo of a {}.",), True), (("a drawing of a {}.",), ("a drawing of a {}.",), False), ((), (), False)],
)
def test_the_default_is_logged(tmp_path, given, chosen, is_logged):
    encoder = Encoder(save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip")))
    with logged() as messages:
        assert choose_templates(encoder, given) == chosen
    lines = [message for message in messages if message.startswith("class texts: 'a photo of a {}.'")]
    assert len(lines) == is_logged and all("--template=" in line for line in lines)
