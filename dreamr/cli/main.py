"""The commands, put together; each lives in a file of its own."""

import sys

import typer

from dreamr.cli import (
    ask,
    bench,
    calibrate,
    certs,
    chaos,
    demo,
    draft,
    fuzz,
    keys,
    pair,
    sample,
    sapo,
    simulate,
    triton,
    up,
)

app = typer.Typer(
    help="Speculative reasoning for large vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("ask")(ask.ask)
app.command("bench")(bench.bench)
app.command("calibrate")(calibrate.calibrate)
app.command("sample")(sample.sample)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("chaos")(chaos.chaos)
app.command("fuzz")(fuzz.fuzz)
app.command("sapo")(sapo.sapo)
app.command("certs")(certs.certs)
app.command("triton")(triton.triton)
app.add_typer(keys.app, name="keys")
app.add_typer(draft.app, name="draft")
app.add_typer(pair.app, name="pair")


def main() -> None:
    """Entry point: what a user can mend is a line on stderr, not a traceback."""
    from dreamr.cluster.pairs import PairError
    from dreamr.cluster.processes import ProcessError
    from dreamr.cluster.triton import TritonStartError
    from dreamr.errors import DreamrError, InvalidRequestError

    try:
        app()
    except InvalidRequestError as error:
        sys.stderr.write(f"dreamr: {error}\n")
        raise SystemExit(2) from None
    except (DreamrError, PairError, ProcessError, TritonStartError, OSError) as error:
        sys.stderr.write(f"dreamr: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
