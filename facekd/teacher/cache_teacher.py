"""Verb `facekd cache-teacher`: embeds a training set once, so that distillation does not need to run the teacher."""

from __future__ import annotations

from pathlib import Path

from facekd.commands.command_line import CommandParser
from facekd.commands.places import check_apart, path_of_model, paths_of_data
from facekd.embedder.model_options import MODEL_HELP, add_model_options
from facekd.errors import run_verb
from facekd.teacher.options import add_data_options, embed_training_set, open_teacher_and_data
from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing, counted

NUM_NAMED = 3
EPILOG = """example:
  facekd cache-teacher teacher.pt --data ms1mv3 --output ms1mv3.teacher --device cuda --workers 8

  a third-party ONNX model whose file does not record its preprocessing:
  facekd cache-teacher other.onnx --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 --color rgb \\
      --data lfw --output lfw.teacher

The file takes 4 bytes per image and embedding value: 10.6 GB for 5.18 million images and 512 values. After an
interruption the same command continues.
"""


def main(argv: list[str] | None = None) -> int:
    """Embeds the images that are not embedded yet, and prints what the cache holds."""
    # The options, the model and the data.
    parser = CommandParser(
        prog="facekd cache-teacher",
        description="Embeds a training set and its mirror images once with a teacher, for distillation.",
        example=EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help=f"the teacher: {MODEL_HELP}")
    add_data_options(parser)
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="take the images of a folder at any depth, whoever they show, for distillation with data.unlabelled",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="the cache to write; it appears when it is complete"
    )
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    check_apart(Path(arguments.output), path_of_model(arguments.model), *paths_of_data(arguments.data))
    embedder, dataset = open_teacher_and_data(arguments)

    # Embed, and say which images could not be.
    cache = embed_training_set(arguments, arguments.output, embedder, dataset)
    print(
        f"{cache.path}: {counted(cache.num_images, 'image')} and "
        f"{agreeing(cache.num_images, 'its mirror image', 'their mirror images')}, "
        f"{counted(cache.embedding_size, 'value')} each, {cache.path.stat().st_size / 1e6:,.1f} MB"
    )
    if len(cache.replaced):
        named = "; ".join(shown(dataset.describe(index), 400) for index in cache.replaced[:NUM_NAMED].tolist())
        print(
            f"{counted(len(cache.replaced), 'image')} cannot be read and "
            f"{agreeing(len(cache.replaced), 'was', 'were')} replaced by the next good one: {named}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
