"""A run's export in a repository of the user's on the Hub. The token is used once and kept nowhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from studio.pipelines.errors import UsageError
from studio.secrets import HIDDEN, redact
from studio.store import Run
from studio.ui.library_export import members

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
REFUSED = {
    401: "the Hub does not accept the token: make one with write access under Settings, Access Tokens",
    403: "the token may not write there: take one with write access, and a repository of your own",
    404: "the Hub knows no such user or organisation, or the token may not see it: check USER/NAME",
    409: "the repository was changed at the same time: try again",
    429: "the Hub asks to wait: try again in some minutes",
}


def push(
    run: Run, wanted: Sequence[str], repo: str, token: str, private: bool = True, endpoint: str | None = None
) -> str:
    """Uploads what `members` gives as one commit; the repository's address. Makes the repository if there is none.

    endpoint: of the Hub, None for the usual one. Raises UsageError with a remedy; the token is in no message.
    """
    repo, token = repo.strip(), token.strip()
    if not REPO.fullmatch(repo):
        raise UsageError(f"repository = '{redact(repo)[:80]}': write USER/NAME, such as me/my-cat-lora")
    if not token or not token.isprintable() or " " in token:
        raise UsageError("give a token with write access (Settings, Access Tokens on the Hub); it is not kept")
    found = members(run, wanted)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    contents = {name: what.encode() if isinstance(what, str) else what for name, what in found.items()}
    files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in contents.items()]
    try:
        api = HfApi(endpoint=endpoint, token=token)
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, files, commit_message=f"Upload {run.name} from Personalization studio")
        return str(made)
    except OfflineModeIsEnabled:
        raise UsageError("the Hub is switched off here (HF_HUB_OFFLINE=1): start the studio without it") from None
    except Exception as error:  # the client has half a dozen types; from None: a chain could hold the token
        raise UsageError(reason(error, repo, token)) from None


def reason(error: Exception, repo: str, token: str) -> str:
    """Why the Hub took nothing, in one line without the token."""
    answer: Any = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    if status in REFUSED:
        return f"{repo}: {REFUSED[status]}"
    said = next(iter(str(error).strip().splitlines()), type(error).__name__).replace(token, HIDDEN)
    if status is None:
        return f"{repo}: the Hub does not answer ({redact(said)[:200]}); check the network and try again"
    return f"{repo}: the Hub refused it ({redact(said)[:300]})"
