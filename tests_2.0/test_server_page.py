"""The page at `/` in a real browser, with a real model behind it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_host import FakeHost, RunningServer, Script, serving
from support.processes import wait_until
from support.real_server import MARKS, RealServer, real_server
from support.smollm2 import smollm2
from support.tiny_model import TinyOptions, scripted_model

from mlxk2.runner.request import Sampling
from mlxk2.server.settings import ServerSettings

webdriver = pytest.importorskip("selenium.webdriver")

# As WebDriver spells keys.
ENTER, TAB = "\ue007", "\ue004"

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    *MARKS,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="Chromium and its driver are not installed"),
]
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--no-first-run", "--window-size=1000,800",
    # Whatever the page wanted from elsewhere would not be found, and be seen in the log.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip


class Page:
    """The page in a browser."""

    def __init__(self, browser: Any, server: RealServer | RunningServer) -> None:
        self.browser, self.server = browser, server

    def open(self) -> None:
        self.browser.get_log("performance")
        self.browser.get(self.server.url + "/")
        wait_until(lambda: self.one("#model").text != "", "the models are listed")

    def one(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        found: list[str] = self.browser.execute_script(script, selector)
        return found

    def length(self, selector: str) -> int:
        found = self.browser.execute_script("return document.querySelector(arguments[0])?.textContent.length", selector)
        return int(found or 0)

    def say(self, text: str) -> None:
        self.one("#text").send_keys(text + ENTER)

    def set(self, selector: str, value: str) -> None:
        self.one("#settings summary").click() if not self.one("#settings").get_property("open") else None
        self.one(selector).clear()
        self.one(selector).send_keys(value)

    def is_answering(self) -> bool:
        return bool(self.one("#stop").is_enabled())

    def requests(self) -> list[str]:
        """The addresses that were asked since the page was opened."""
        entries = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        return [one["params"]["request"]["url"] for one in entries if one["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        found = self.browser.get_log("browser")
        return [entry["message"] for entry in found if entry["level"] in ("WARNING", "SEVERE")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.command_executor.client_config.timeout = 120
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = TinyOptions(context_length=1_000_000)
    pieces = ["one, ", "two, ", "three, ", "four\n"]
    return scripted_model(tmp_path_factory.mktemp("models") / "endless", pieces=pieces, options=options, repeat=True)


@pytest.fixture(scope="module")
def server(endless: Path) -> Iterator[RealServer]:
    with real_server(endless) as started:
        yield started


@pytest.fixture
def page(browser: Any, server: RealServer) -> Page:
    page = Page(browser, server)
    page.open()
    return page


@pytest.mark.smollm2
def test_it_streams_an_answer_of_the_real_model_and_remembers_the_talk(browser: Any) -> None:
    with real_server(smollm2()) as server:
        page = Page(browser, server)
        page.open()
        page.set("#temperature", "0")
        page.say("What is the capital of France?")
        wait_until(lambda: page.texts(".assistant") != [] and not page.is_answering(), "the answer is complete")
        answer, note = page.texts(".assistant")[0].split("\n")
        assert answer == "The capital of France is Paris."
        assert "tokens" in note and "a second" in note
        before = server.metric('mlxk2_tokens_total{kind="prompt"}')
        page.say("And of Italy?")
        wait_until(lambda: len(page.texts(".assistant")) == 2 and not page.is_answering(), "the next one is complete")
        assert server.metric('mlxk2_tokens_total{kind="prompt"}') - before > before
        assert page.texts(".user") == ["What is the capital of France?", "And of Italy?"]
        assert page.complaints() == []


def test_it_asks_nobody_else(page: Page) -> None:
    page.set("#limit", "3")
    page.say("hi")
    wait_until(lambda: page.texts(".note") != ["", ""] and not page.is_answering(), "the answer is complete")
    asked = page.requests()
    assert any(url.endswith("/v1/chat/completions") for url in asked)
    assert [url for url in asked if not url.startswith((page.server.url + "/", "data:", "chrome"))] == []
    assert page.complaints() == []


def test_stop_ends_the_answer_and_frees_the_engine(page: Page) -> None:
    page.say("count")
    # Long and fast enough that a page which showed each token by itself would not be usable any more.
    wait_until(lambda: page.length(".assistant") > 10_000, "the answer has become long")
    assert page.is_answering() and page.server.status()["running"] == 1
    page.one("#stop").click()
    wait_until(lambda: not page.is_answering(), "the page has stopped")
    assert "stopped" in page.texts(".assistant")[0]
    page.server.wait_until_idle()
    said = page.texts(".assistant")
    page.set("#limit", "2")
    page.say("again")
    wait_until(lambda: len(page.texts(".assistant")) == 2 and not page.is_answering(), "the next answer is complete")
    assert page.texts(".assistant")[0] == said[0]
    assert "cut at the limit" in page.texts(".assistant")[1]


def test_a_new_chat_knows_nothing_of_the_answer_that_still_came(browser: Any) -> None:
    host = FakeHost(Script(words=("word ",), hold=True))
    with serving(host) as server:
        page = Page(browser, server)
        page.open()
        page.say("first")
        wait_until(lambda: "word" in "".join(page.texts(".assistant")), "the answer has begun")
        page.one("#clear").click()
        host.script = Script(words=("ok",))
        page.say("second")
        wait_until(lambda: "ok" in "".join(page.texts(".assistant")), "the other is answered")
        assert turns(host) == [("user", "second")]
        wait_until(lambda: not page.is_answering(), "the answer is complete")
        page.say("third")
        wait_until(lambda: len(page.texts(".assistant")) == 2 and not page.is_answering(), "the next is answered")
        assert turns(host) == [("user", "second"), ("assistant", "ok"), ("user", "third")]


def test_a_question_that_was_stopped_before_the_first_word_is_not_asked_again(browser: Any) -> None:
    host = FakeHost(Script(pause_before_start_s=60))
    with serving(host) as server:
        page = Page(browser, server)
        page.open()
        page.say("first")
        wait_until(lambda: host.running == 1, "the question has arrived")
        page.one("#stop").click()
        wait_until(lambda: not page.is_answering(), "the page has stopped")
        host.script = Script(words=("ok",))
        page.say("second")
        wait_until(lambda: "ok" in "".join(page.texts(".assistant")), "the other is answered")
        assert turns(host) == [("user", "second")]


def test_it_asks_for_a_temperature_only_if_one_was_set(browser: Any) -> None:
    host = FakeHost(Script(words=("ok",)))
    settings = ServerSettings(sampling=Sampling(temperature=0.25))
    with serving(host, settings) as server:
        page = Page(browser, server)
        page.open()
        page.say("first")
        wait_until(lambda: len(page.texts(".assistant")) == 1 and not page.is_answering(), "the answer is complete")
        page.set("#temperature", "0.5")
        page.say("second")
        wait_until(lambda: len(page.texts(".assistant")) == 2 and not page.is_answering(), "the next is complete")
    assert [request.sampling.temperature for request in host.requests] == [0.25, 0.5]


def turns(host: FakeHost) -> list[tuple[str, str]]:
    """What was asked last."""
    return [(message.role, message.content) for message in host.requests[-1].messages]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_script_that_is_not_the_pages_own_does_not_run(browser: Any, path: str) -> None:
    with serving(FakeHost()) as server:
        browser.get(server.url + path)
        before = browser.title
        browser.get_log("browser")
        browser.execute_script(
            "const s = document.createElement('script'); s.textContent = \"document.title = 'owned'\"; document.body.append(s)"
        )
        assert browser.title == before
        assert "Content Security Policy" in str(browser.get_log("browser"))


def test_what_a_model_says_is_never_markup(browser: Any, tmp_path: Path) -> None:
    bad = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    with real_server(scripted_model(tmp_path / "markup", bad, TinyOptions(context_length=1024))) as server:
        page = Page(browser, server)
        page.open()
        page.say("<b>hi</b>")
        wait_until(lambda: page.texts(".assistant") != [] and not page.is_answering(), "the answer is complete")
        assert page.texts(".assistant")[0].startswith(bad)
        assert page.texts(".user") == ["<b>hi</b>"]
        assert browser.title == "MLX Knife"


def test_errors_are_told_in_words(page: Page) -> None:
    page.set("#limit", "9999999")
    page.say("hi")
    wait_until(lambda: page.texts(".error") != [], "the error is shown")
    assert "the model's context holds 1000000" in page.texts(".error")[0]
    page.one("#clear").click()
    assert page.texts(".turn") == []


def test_a_key_is_asked_for_and_used(browser: Any, endless: Path) -> None:
    with real_server(endless, env={"MLXK2_API_KEY": "opensesame"}, key="opensesame") as server:
        page = Page(browser, server)
        browser.get(server.url + "/")
        wait_until(lambda: "API key" in page.one("#status").text, "the page says that there is a key")
        page.set("#key", "opensesame" + TAB)
        wait_until(lambda: page.one("#model").text != "", "the models are listed")
        page.set("#limit", "4")
        page.say("hi")
        wait_until(lambda: page.texts(".assistant") != [] and not page.is_answering(), "the answer is complete")
        assert page.texts(".assistant")[0].startswith("one, two, three, four")
