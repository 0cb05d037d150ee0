"""A chat template that does not end is one sentence, not a training that hangs."""

import signal
import threading
import time

import pytest

from methods.errors import MethodError
from methods.tokenizers import templates
from methods.tokenizers.templates import EndlessTemplate, chat_text
from tests.methods.conftest import letter_tokenizer

ASKED = [{"role": "user", "content": "ab"}]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def with_template(text):
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = text
    return tokenizer


def test_a_template_that_does_not_end(monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(EndlessTemplate, match=r"^the tokenizer: its chat template does not end: 0.2 s"):
        chat_text(with_template(LOOP), ASKED)
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert issubclass(EndlessTemplate, MethodError)


def test_waiting_is_not_computing(monkeypatch):
    """A machine that is busy with others, or asleep, is no fault of the template."""
    monkeypatch.setattr(templates, "SECONDS", 0.2)

    class Slow:
        name_or_path = ""

        def apply_chat_template(self, *_, **__):
            time.sleep(0.5)
            return "said"

    assert chat_text(Slow(), ASKED) == "said"


def test_other_threads_have_no_limit():
    found = []
    plain = with_template("{{ messages[0].content }}{% if add_generation_prompt %}|{% endif %}")
    thread = threading.Thread(target=lambda: found.append(chat_text(plain, ASKED)))
    thread.start()
    thread.join()
    assert found == ["ab|"] and chat_text(plain, ASKED, ask=False) == "ab"
