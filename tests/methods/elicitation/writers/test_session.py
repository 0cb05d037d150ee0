from methods.elicitation.writers.oracle import FunctionWriter
from methods.elicitation.writers.protocol import ask
from methods.elicitation.writers.session import Session


def test_equal_requests_are_asked_once_and_answered_in_order():
    heard = []

    def reply(request, sample):
        heard.append(request.messages[-1].content)
        return f"{request.messages[-1].content}! {sample}"

    session = Session(FunctionWriter("echo", reply))
    answers = session.ask([ask("a"), ask("b"), ask("a")])
    assert [answer.text for answer in answers] == ["a! 0", "b! 0", "a! 0"]
    assert heard == ["a", "b"]
    assert [answer.text for answer in session.ask([ask("b"), ask("c")])] == ["b! 0", "c! 0"]
    assert heard == ["a", "b", "c"]
    assert answers[0].request == answers[2].request != answers[1].request
