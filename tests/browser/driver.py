"""Start JupyterLab as `qdelta lab` does and drive it in Chromium, whatever the notebook."""

import ast
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

from qdelta_analysis import lab as qdelta_lab

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"

_OUTSIDE = re.compile(r"^(https?|wss?)://(?!127\.0\.0\.1[:/])")


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, its token and the folder that it serves."""

    url: str
    token: str
    root: Path


@dataclass
class Watch:
    """What a page did that it should not have done."""

    console: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


_WATCHES: weakref.WeakKeyDictionary[Page, Watch] = weakref.WeakKeyDictionary()


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome, None where there is none."""
    names = (os.environ.get("QDELTA_CHROMIUM"), "chromium", "google-chrome", "chromium-browser")
    return next((path for path in map(shutil.which, filter(None, names)) if path), None)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Lab]:
    """Copy the notebooks under `folder` and run JupyterLab on the copy, away from the user's own settings."""
    root = folder / "notebooks"
    root.mkdir(parents=True)
    if NOTEBOOKS.is_dir():
        ignored = shutil.ignore_patterns(".ipynb_checkpoints")
        shutil.copytree(NOTEBOOKS, root, dirs_exist_ok=True, ignore=ignored)
    token = secrets.token_hex(16)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = qdelta_lab.command(
        root,
        "",
        port=port,
        open_browser=False,
        allow_root=qdelta_lab.running_as_root(),
        options=("--LabApp.expose_app_in_browser=True", f"--IdentityProvider.token={token}"),
    )
    homes = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    log = folder / "jupyterlab.log"
    with qdelta_lab.environment() as variables, log.open("w") as output:
        process = subprocess.Popen(line, env=variables | homes, stdout=output, stderr=subprocess.STDOUT)
        running = Lab(f"http://127.0.0.1:{port}", token, root)
        try:
            _wait_until_it_answers(running, process, log)
            yield running
        finally:
            # JupyterLab ends its kernels itself when asked to stop.
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_answers(lab: Lab, process: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    request = urllib.request.Request(f"{lab.url}/api/status", headers={"Authorization": f"token {lab.token}"})
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-4000:]}")


@contextlib.contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    """Run a headless Chromium that can resolve no name but loopback's."""
    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        # Playwright starts it without Chromium's sandbox, which root and most containers cannot have.
        browser = playwright.chromium.launch(executable_path=executable, args=[rules])
        yield browser
        browser.close()


@contextlib.contextmanager
def open_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """Open a page whose console errors are recorded and whose requests to the outside are refused."""
    options = {"viewport": {"width": 1280, "height": 1000}} | options
    context = browser.new_context(**options)
    watch = Watch()

    def refuse(route: Route) -> None:
        watch.outside.append(route.request.url)
        route.abort()

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            watch.console.append(f"{message.text} ({message.location['url']})")

    context.route(_OUTSIDE, refuse)
    page = context.new_page()
    page.on("console", listen)
    page.on("pageerror", lambda error: watch.console.append(f"uncaught: {error}"))
    page.on("websocket", lambda ws: watch.outside.append(ws.url) if _OUTSIDE.match(ws.url) else None)
    _WATCHES[page] = watch
    try:
        yield page
    finally:
        context.close()


def open_and_run(page: Page, lab: Lab, name: str, seconds: float = 120) -> None:
    """Open the notebook `name` and run every cell; raise AssertionError at an error or stderr output."""
    page.goto(f"{lab.url}/lab/tree/{name}?token={lab.token}&reset")
    # The indicator in the toolbar says idle before the kernel is there, and running then asks for a kernel.
    page.wait_for_function(_READY, timeout=seconds * 1000)
    page.evaluate(_WATCH_KERNEL)
    # The promise is not returned: waiting for it here would hang.
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); return null; }")
    page.wait_for_function(_FINISHED, timeout=seconds * 1000)
    assert_no_kernel_errors(page)


_READY = """() => {
  document.querySelector('.jp-Dialog .jp-mod-accept')?.click();
  const session = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return session?.isReady && session.session?.kernel?.status === 'idle' && !document.querySelector('.jp-Dialog');
}"""

# Every message of the kernel is read, so that an error in a widget's callback counts, not only one in a cell.
# JupyterLab asks a new kernel for the widgets it has; before ipywidgets is imported the kernel logs that
# nobody answers, which is no fault of a notebook.
_WATCH_KERNEL = """() => {
  const unanswered = /^(No such comm( target registered)?: (jupyter\\.widget\\.control|[0-9a-f-]{36})\\s*)+$/;
  window.qdeltaKernel = [];
  jupyterapp.shell.currentWidget.sessionContext.iopubMessage.connect((_, { header, content }) => {
    const { msg_type } = header;
    if (msg_type === 'error') window.qdeltaKernel.push(content.traceback.join('\\n'));
    if (msg_type !== 'stream' || content.name !== 'stderr' || unanswered.test(content.text)) return;
    window.qdeltaKernel.push(content.text);
  });
}"""

_FINISHED = """() => {
  const { content, sessionContext } = jupyterapp.shell.currentWidget;
  if (sessionContext.session?.kernel?.status !== 'idle') return false;
  const code = [...content.model.cells].filter((c) => c.type === 'code' && c.sharedModel.getSource().trim());
  return window.qdeltaKernel.length > 0 || code.every((c) => c.executionCount && c.executionState === 'idle');
}"""


def assert_no_kernel_errors(page: Page) -> None:
    """Raise AssertionError where a cell or a widget's callback raised or wrote to stderr."""
    # Taken out, so that one failure is reported once.
    texts = page.evaluate("() => (window.qdeltaKernel ?? []).splice(0)")
    assert not texts, "the kernel reported:\n" + re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(texts))


def assert_clean(page: Page) -> None:
    """Raise AssertionError where the page logged an error or asked for anything outside this machine."""
    watch = _WATCHES[page]
    assert not watch.outside, f"the page asked for {watch.outside}"
    assert not watch.console, "the browser's console shows:\n" + "\n".join(watch.console)
    assert_no_kernel_errors(page)


def forget(page: Page) -> None:
    """Start a new record of what the page does wrong, after a test that made it do so."""
    watch = _WATCHES[page]
    watch.console.clear()
    watch.outside.clear()


def run_python(page: Page, code: str) -> None:
    """Run `code` in the open notebook's kernel and wait for it; its errors count as the notebook's."""
    page.evaluate(
        """async (code) => {
          const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
          await kernel.requestExecute({ code, store_history: false }).done;
          return null;
        }""",
        code,
    )
    assert_no_kernel_errors(page)


def read_python(page: Page, expression: str) -> Any:
    """Return the value of `expression` in the open notebook's kernel, a literal once it is printed."""
    answer = page.evaluate(
        """async (x) => {
          const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
          const request = { code: '', store_history: false, user_expressions: { x } };
          return (await kernel.requestExecute(request).done).content.user_expressions.x;
        }""",
        expression,
    )
    assert answer["status"] == "ok", f"{expression} raised {answer['ename']}: {answer['evalue']}"
    return ast.literal_eval(answer["data"]["text/plain"])


def wait_for_python(page: Page, expression: str, value: Any, seconds: float = 5) -> None:
    """Wait until `expression` equals `value` in the open notebook's kernel, which hears of moves a little later."""
    deadline = time.monotonic() + seconds
    while (found := read_python(page, expression)) != value:
        assert time.monotonic() < deadline, f"{expression} stayed {found!r} in the kernel, not {value!r}"
        page.wait_for_timeout(50)


def use_theme(page: Page, name: str) -> None:
    """Switch JupyterLab to the theme `name`, "JupyterLab Light" or "JupyterLab Dark"."""
    page.evaluate("(theme) => { jupyterapp.commands.execute('apputils:change-theme', { theme }); return null; }", name)
    light = "false" if "Dark" in name else "true"
    page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")
