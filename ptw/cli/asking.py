"""Which commands ask a model something? An answer to a prompt, or how good it is on held-out data."""

import click

from ptw.cli.speaking import as_json, opened, print_json


@click.command()
@click.argument("name", metavar="MODEL|RUN[@STEP]")
@click.argument("prompt")
@click.option("--max-new-tokens", default=100, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0), help="0 is greedy."
)
@as_json
def generate(name: str, prompt: str, max_new_tokens: int, temperature: float, as_json: bool) -> None:
    """Let a model or a run's model go on from a prompt.

    RUN@STEP is the model of one of the run's checkpoints.
    """
    workspace = opened()
    from ptw.evals.answer import answer
    from ptw.train.moment import open_at

    text = answer(open_at(workspace, name), prompt, max_new_tokens, temperature)
    if as_json:
        print_json({"name": name, "prompt": prompt, "text": text})
    else:
        click.echo(text)


@click.command(name="eval")
@click.argument("name", metavar="RUN[@STEP]|MODEL")
@click.option("--dataset", help="One of [datasets]. Default: what the run's recipe names.")
@as_json
def evaluate(name: str, dataset: str | None, as_json: bool) -> None:
    """Measure a run's model on held-out data.

    RUN@STEP is the model of one of the run's checkpoints.
    """
    workspace = opened()
    from ptw.evals.evaluate import evaluate as measure
    from ptw.train.moment import open_at

    metrics = measure(workspace, open_at(workspace, name), dataset)
    if as_json:
        print_json(metrics)
        return
    width = max(map(len, metrics), default=0)
    for key, value in metrics.items():
        click.echo(f"{key:<{width}}  {value:.4f}" if isinstance(value, float) else f"{key:<{width}}  {value}")
