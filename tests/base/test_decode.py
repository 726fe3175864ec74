"""Pictures that an autoencoder fails to draw in half precision."""

import dataclasses
import warnings

import pytest
import torch

from cdvideo.base.model import DECODED_AT_ONCE
from cdvideo.errors import UserError, UserNote

LATENTS = torch.zeros(2, 4, 8, 8)


class Failing:
    """pocket's autoencoder, which in half precision draws what `spoil` makes of its pictures."""

    def __init__(self, vae, spoil, *, always=False):
        self.vae, self.spoil, self.always = vae, spoil, always

    def __getattr__(self, name):
        return getattr(self.vae, name)

    def decode(self, latents):
        decoded = self.vae.decode(latents)
        return type(decoded)(sample=self.spoil(decoded.sample)) if self.always or latents.dtype != torch.float32 else decoded


def failing(base, dtype, spoil, **options):
    base.vae.to(dtype)
    return dataclasses.replace(base, dtype=dtype, components=dataclasses.replace(base.components, vae=Failing(base.vae, spoil, **options)))


@pytest.mark.parametrize("spoil", [lambda picture: picture * torch.nan, lambda picture: picture * 0 - 1], ids=["nan", "black"])
def test_what_fails_is_decoded_again_in_fp32_and_said(pocket, spoil):
    expected = pocket.decode(LATENTS)
    base = failing(pocket, torch.bfloat16, spoil)
    places = [value.data_ptr() for value in base.vae.parameters()]
    with pytest.warns(UserNote, match="failed in bfloat16"):
        pictures = base.decode(LATENTS.to(torch.bfloat16))
    assert [value.data_ptr() for value in base.vae.parameters()] == places, "recordings read weights where they were"
    # The weights went through bfloat16 once.
    assert (pictures.int() - expected.int()).abs().max() < 16
    assert base.vae.dtype == torch.bfloat16


def test_what_fails_in_fp32_too_is_an_error_with_a_way_out(pocket):
    base = failing(pocket, torch.float32, lambda picture: picture * torch.nan, always=True)
    with pytest.raises(UserError, match="not numbers") as refused:
        base.decode(LATENTS)
    assert "--dtype fp32" in refused.value.remedy and "autoencoder" in refused.value.cause


def test_where_memory_ends_while_decoding_again_pictures_are_decoded_one_by_one(pocket):
    expected = pocket.decode(LATENTS)
    base = failing(pocket, torch.bfloat16, lambda picture: picture * torch.nan)
    usual = base.vae.decode

    def full(latents):
        if latents.dtype == torch.float32 and len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(latents)

    base.vae.decode = full
    with pytest.warns(UserNote, match="one by one"), pytest.warns(UserNote, match="failed in bfloat16"):
        pictures = base.decode(LATENTS.to(torch.bfloat16))
    assert (pictures.int() - expected.int()).abs().max() < 16


def test_pictures_are_given_in_order_while_the_next_ones_are_in_the_making(pocket, monkeypatch):
    latents = torch.randn(2 * DECODED_AT_ONCE + 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([pocket.decode(one) for one in latents.split(DECODED_AT_ONCE)])
    begun, decode = [], pocket.vae.decode
    monkeypatch.setattr(pocket.vae, "decode", lambda some: begun.append(len(some)) or decode(some))
    given = [(len(begun), some) for some in pocket.decoded(latents)]
    assert [number for number, _ in given] == [2, 3, 3] and begun == [DECODED_AT_ONCE, DECODED_AT_ONCE, 1]
    assert torch.equal(torch.cat([some for _, some in given]), expected)


def test_nothing_is_said_where_nothing_fails(pocket):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pocket.decode(LATENTS)
