"""The errors a user can cause, and what they should be told. The command line prints errors in three parts and exits with code 2."""

from __future__ import annotations


class UserError(Exception):
    """Something the user asked for cannot be done: what it is, why, and the way out."""

    exit_code = 2
    label = "error"

    def __init__(self, message: str, *, cause: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.message]
        if self.cause:
            parts.append(f"  why: {self.cause}")
        if self.remedy:
            parts.append(f"  try: {self.remedy}")
        return "\n".join(parts)


class Interrupted(UserError):
    """The user stopped the work with Ctrl-C; says what is kept."""

    exit_code = 130
    label = "stopped"


class UserNote(UserWarning):
    """Something that the user should know, while the work goes on."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
