"""A session outlives its gateway and the program that began it.

`python examples/resume.py begin HOST:PORT IMAGE QUESTION` prints the session and how many steps were seen;
`python examples/resume.py go-on HOST:PORT SESSION STEPS`, later and at any gateway, goes on behind them.
"""

import sys

import dreamr


def begin(address: str, image: str, question: str) -> None:
    with dreamr.Client(address) as client:
        session = ""
        for event in client.reason(question, images=[image], background=True):
            if isinstance(event, dreamr.Started):
                session = event.session_id
            elif isinstance(event, dreamr.Commit):
                # In the background it is worked on though nobody listens any more.
                print(session, event.index + 1)
                break


def go_on(address: str, session: str, steps: str) -> None:
    with dreamr.Client(address) as client:
        for event in client.resume(session, from_index=int(steps)):
            if isinstance(event, dreamr.Commit):
                print(event.index, event.author, event.text)
            elif isinstance(event, dreamr.Finished):
                print("answer:", event.answer)


{"begin": begin, "go-on": go_on}[sys.argv[1]](*sys.argv[2:])
