"""Calling `cdvideo` as a user does, in this process."""

from click.testing import CliRunner, Result

from cdvideo.cli import main


def call(*arguments: str) -> Result:
    """What the command printed and its exit code. Anything but an error that is explained fails the test."""
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
