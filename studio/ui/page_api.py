"""The same jobs over HTTP, through gradio's own interface.

A client that starts a run, waits for it and fetches its adapter:

    import time
    from gradio_client import Client

    client = Client("http://127.0.0.1:7860")  # auth=("NAME", "PASSWORD") where the page asks for them
    settings = {"steps": 40, "data": {"folder": "subject:penguin"}}  # or a folder of yours
    run = client.predict({"trainer": "dreambooth", "dreambooth": settings}, api_name="/start_run")
    while (now := client.predict(run, api_name="/run_status"))["state"] in ("waiting", "running"):
        print(now["step"], "of", now["steps"], now["loss"])
        time.sleep(2)
    print(client.predict(run, "diffusers", api_name="/fetch_adapter"))  # the file, downloaded
"""

# Annotations are real types here, not strings: gradio reads the interface off them.
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from studio.ui import jobs_api
from studio.ui.place import Where
from studio.ui.words import shown

T = TypeVar("T")
AT_ONCE = 4  # calls of one endpoint
NAMES = ("start_run", "run_status", "stop_run", "resume_run", "fetch_adapter")


def told(work: Callable[[], T]) -> T:
    """What a function returns; its error as the one line that the caller reads."""
    try:
        return work()
    except Exception as error:  # the last door of the interface: a sentence goes out, never a traceback
        raise gr.Error(shown(error), print_exception=False) from None


def bind(where: Where) -> None:
    """The endpoints, inside the page that is being built."""

    def start_run(settings: dict[str, Any], request: gr.Request) -> str:
        """Put a run into the queue: a config as JSON, or {"toml": "..."}. Returns the run's name."""
        written = isinstance(settings, dict) and set(settings) == {"toml"}
        return told(lambda: jobs_api.start_run(str(settings["toml"]) if written else settings, where(request)))

    def run_status(run: str, request: gr.Request) -> dict[str, Any]:
        """Where a run is: state, reason, step, steps, phase, loss, saved, ahead (jobs), adapter (yes or no)."""
        return told(lambda: jobs_api.run_status(run, where(request)))

    def stop_run(run: str, request: gr.Request) -> str:
        """Ask a run to save its state and end. Returns its state."""
        return told(lambda: jobs_api.stop_run(run, where(request)))

    def resume_run(run: str, request: gr.Request) -> str:
        """Put a stopped or failed run into the queue again. Returns its state."""
        return told(lambda: jobs_api.resume_run(run, where(request)))

    def fetch_adapter(run: str, kind: str, request: gr.Request) -> str:
        """The adapter file of a run; kind: diffusers or kohya."""
        return told(lambda: str(jobs_api.fetch_adapter(run, where(request), kind or "diffusers")))

    for endpoint in (start_run, run_status, stop_run, resume_run):
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=AT_ONCE)
    with gr.Row(visible=False):  # a file goes out through a component, which copies it to where it may be fetched
        run, kind, file = gr.Textbox(label="run"), gr.Textbox("diffusers", label="kind"), gr.File(label="adapter")
        gr.Button().click(fetch_adapter, [run, kind], file, api_name="fetch_adapter", concurrency_limit=AT_ONCE)
