"""Recipes: every setting that changes a model, read from TOML into frozen structs. Unknown keys are errors."""

import hashlib
import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from musix_runtime.bundle.manifest import MAX_CANDIDATES, MAX_POOL, MAX_RECIPE_BYTES, NAME, VERSION
from musix_runtime.errors import InputError, RecipeError
from musix_runtime.input_file import read_input
from musix_runtime.models.ranker import COMPONENTS
from musix_runtime.parsing import field_error
from musix_trainer import toml_text

Positive = Annotated[int, Meta(ge=1, le=10**9)]
Width = Annotated[int, Meta(ge=1, le=4096)]  # numbers in a vector: larger ones fill the memory
Depth = Annotated[int, Meta(ge=1, le=64)]
Rounds = Annotated[int, Meta(ge=1, le=1024)]  # as many as a bundle's graph may have
Bins = Annotated[int, Meta(ge=2, le=65_536)]
# Upper bounds far beyond what is of use, so that every training ends.
Epochs = Annotated[int, Meta(ge=1, le=10_000)]
Batch = Annotated[int, Meta(ge=1, le=65_536)]
Samples = Annotated[int, Meta(ge=1, le=1_000_000)]
Few = Annotated[int, Meta(ge=1, le=1000)]
FileBytes = Annotated[int, Meta(ge=1, le=2**53)]
UnitInterval = Annotated[float, Meta(ge=0, le=1)]
OpenUnit = Annotated[float, Meta(gt=0, lt=1)]
HalfOpenUnit = Annotated[float, Meta(gt=0, le=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the recipe."""


class Tables(Section, frozen=True):
    """File names in the data folder. Feedback and playlists beside the listening are optional; so are moods, which are
    read if the file exists. Without a file of genre families the shipped one is used."""

    tracks: str = "tracks.parquet"
    listening: str = "listening.parquet"
    playlists: str | None = None
    feedback: str | None = None
    moods: str = "moods.parquet"
    families: str | None = None


class Synthetic(Section, frozen=True):
    """Size of the embedded, simulated data set."""

    tracks: Annotated[int, Meta(ge=500, le=1_000_000)] = 3000  # fewer are too few for each genre family
    listeners: Annotated[int, Meta(ge=20, le=1_000_000)] = 600  # fewer are too few for the ranker


class Benchmark(Section, frozen=True):
    """Settings of a source of interactions alone."""

    core: Few = 5  # least number of pairs of each listener and each artist


class Tuned(Section, frozen=True):
    """Tuning of `collab` and of the baselines, written by `musix tune`."""

    study: str = ""  # SHA-256 of the trials
    trials: dict[str, Positive] = {}  # number, for collab and for each baseline
    baselines: dict[str, dict[str, float]] = {}  # best hyper-parameters of each baseline


class CatalogSection(Section, frozen=True):
    """Statistics of the catalogue."""

    freshness_half_life: PositiveFloat = 730.0  # days in which freshness halves
    popular: Samples = 1000  # most popular tracks, candidates for anonymous users


class Split(Section, frozen=True):
    """How interactions are held out.

    `artist`: a listener's tracks of one artist are held out together; needed when interactions were derived from
    artists, as each track would reveal the others. The ranker then learns that each track stands for its artist.
    `leave_one_out`: one entry of each listener for validation and one for test, whatever the shares. `time`: for test
    what a listener heard for the first time on the day `before` or later (UTC), whatever the share; for validation the
    latest entries of those before.
    """

    by: Literal["track", "artist", "leave_one_out", "time"] = "track"
    validation: OpenUnit = 0.1
    test: OpenUnit = 0.1
    before: date | None = None

    @property
    def before_s(self) -> int | None:
        """Return the beginning of the day `before` in seconds since 1970."""
        return None if self.before is None else int(datetime.combine(self.before, time(), UTC).timestamp())


class Genre(Section, frozen=True):
    """The genre ensemble: LightFM over artists and binned inputs, XGBoost over inputs, artist prior and n-grams, and
    three further XGBoost models that read no artist: over inputs and title, over inputs, and over audio features."""

    no_components: Width = 50
    learning_schedule: Literal["adadelta", "adagrad"] = "adadelta"
    loss: Literal["bpr", "warp", "logistic"] = "bpr"
    k: Few = 5
    epochs: Epochs = 10
    artist_mask: UnitInterval = 0.2  # share of training tracks that LightFM sees again without their artists
    stranger: UnitInterval = 0.4  # share of training tracks that XGBoost sees again as of unknown artists
    masked: UnitInterval = 0.2  # share of its rows that XGBoost sees without popularity
    bins: Annotated[int, Meta(ge=1, le=1000)] = 20  # quantile bins of each input
    bin_weight: PositiveFloat = (
        0.01  # of a bin in LightFM; artists have 1. Larger weights hide the artist; XGBoost models the sound
    )
    artist_prior: PositiveFloat = 0.4  # number of tracks that the prediction from an artist's name counts as
    letter_alpha: PositiveFloat = 3e-5  # L2 penalty of the logistic regression over character n-grams
    max_depth: Depth = 7
    max_bin: Bins = 64  # of each XGBoost feature: as accurate as 256, in half the time
    learning_rate: PositiveFloat = 0.1
    n_estimators: Rounds = 200
    subsample: HalfOpenUnit = 0.8
    colsample_bytree: HalfOpenUnit = 0.8
    # One tree with vector leaves in each round, for all families: as accurate as one for each, and 16 times smaller.
    multi_strategy: Literal["multi_output_tree", "one_output_per_tree"] = "multi_output_tree"
    iqr: PositiveFloat = 1.5  # inputs are clipped this many interquartile ranges beyond the quartiles
    validation: OpenUnit = 0.1
    test: OpenUnit = 0.1
    refit: bool = True  # after measuring, learn again from the test part too; the card keeps the figures of before


class Mood(Section, frozen=True):
    """The mood network, and its teacher: without a choice, perceived moods if there is a moods table, else the rule."""

    hidden: tuple[Width, Width] = (64, 32)
    dropout: tuple[UnitInterval, UnitInterval] = (0.3, 0.2)
    learning_rate: PositiveFloat = 0.001
    batch: Batch = 32
    epochs: Epochs = 50
    patience: Epochs = 8
    validation: OpenUnit = 0.2
    teacher: Literal["rule", "perceived"] | None = None
    examples: Samples = 8000  # drawn from each source of perceived moods


class Artists(Section, frozen=True):
    """Similar artists: those with most listeners in common."""

    neighbours: Annotated[int, Meta(ge=1, le=64)] = 20
    shrinkage: PositiveFloat = 3.0  # added to the root of the product of both numbers of listeners


class Collab(Section, frozen=True):
    """LightFM over interactions."""

    no_components: Width = 50
    learning_schedule: Literal["adadelta", "adagrad"] = "adadelta"
    loss: Literal["bpr", "warp", "logistic"] = "bpr"
    learning_rate: PositiveFloat = 0.05  # adagrad only
    item_alpha: Annotated[float, Meta(ge=0)] = 0.0
    user_alpha: Annotated[float, Meta(ge=0)] = 0.0
    epochs: Epochs = 100
    artist_features: bool = False  # a recording's factors are the sum of its own and those of its artist
    fold_in_ridge: PositiveFloat = 1.0
    taste_width: Width = 48
    taste_damping: UnitInterval = 0.25  # exponent of a track's popularity that divides its co-occurrences
    # Above 0: co-listening by a linear autoencoder with this L2 penalty and scale, instead of damped co-occurrences.
    taste_ridge: Annotated[float, Meta(ge=0)] = 0.0
    taste_scale: PositiveFloat = 1.0


class Content(Section, frozen=True):
    """Weight of each block of the content vector, before the vector is scaled to length 1."""

    audio: PositiveFloat = 1.0
    genre: PositiveFloat = 1.0
    mood: PositiveFloat = 0.5
    popularity: PositiveFloat = 0.25


class Index(Section, frozen=True):
    """How vectors are searched: exactly up to a size, else only the clusters nearest to the query."""

    exact: Positive = 300_000  # numbers (vectors x width) up to which search is exact: about 0.03 ms
    recall: UnitInterval = 0.98  # of the exact nearest neighbours; determines how many clusters are searched


class Ranker(Section, frozen=True):
    """The ranker network, and how the runtime selects its candidates."""

    hidden: tuple[Width, Width] = (32, 16)
    learning_rate: PositiveFloat = 0.001
    batch: Batch = 64  # lists
    epochs: Annotated[int, Meta(ge=0, le=10_000)] = 50  # 0: the network stays the linear function that it begins at
    patience: Epochs = 10
    validation: OpenUnit = 0.2
    negatives: Few = 20  # negative impressions for each positive one, without an impressions table
    # Without an impressions table, and above 0: listeners are held out in so many folds, and the ranker learns from all
    # candidates that continue a part of their history. 0: from the validation part, by listeners that are known.
    folds: Annotated[int, Meta(ge=0, le=20)] = 0
    candidates: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] = 50
    factors: UnitInterval = 0.6  # share of matrix factors in the component collab; the rest is co-listening
    pool: Annotated[int, Meta(ge=1, le=MAX_POOL)] = 60
    blend: dict[str, UnitInterval] | Literal["learned"] = msgspec.field(
        default_factory=lambda: {"collab": 0.5, "content": 0.3, "preference": 0.0, "freshness": 0.1, "diversity": 0.1}
    )


class Bytes(Section, frozen=True):
    """Maximum size of the bundle's files in bytes, in total and by part."""

    total: FileBytes | None = None
    catalog: FileBytes | None = None
    genre: FileBytes | None = None
    mood: FileBytes | None = None
    artists: FileBytes | None = None
    collab: FileBytes | None = None
    content: FileBytes | None = None
    ranker: FileBytes | None = None
    golden: FileBytes | None = None


class Memory(Section, frozen=True):
    """Maximum private memory of a process with the bundle open."""

    load_mb: PositiveFloat | None = None  # private, anonymous pages; pages of mapped files are shared


class Time(Section, frozen=True):
    """Maximum time of a response, as a multiple of that of its bare kernels, measured in the same run."""

    classify: PositiveFloat | None = None
    recommend: PositiveFloat | None = None
    similar: PositiveFloat | None = None


class Gates(Section, frozen=True):
    """Limits that a bundle must meet to be built. Keys of `at_least` and `at_most` are those of the quality card."""

    at_least: dict[str, float] = msgspec.field(default_factory=dict)
    at_most: dict[str, float] = msgspec.field(default_factory=dict)
    bytes: Bytes = Bytes()
    memory: Memory = Memory()
    time: Time = Time()


class Recipe(Section, frozen=True):
    """A recipe: name and version of the bundle, its sources, and all settings."""

    name: Annotated[str, Meta(pattern=NAME)]
    version: Annotated[str, Meta(pattern=VERSION)]
    source: Literal["synthetic", "tables", "lastfm"]
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    tables: Tables = Tables()
    synthetic: Synthetic = Synthetic()
    catalog: CatalogSection = CatalogSection()
    benchmark: Benchmark = Benchmark()
    split: Split = Split()
    genre: Genre = Genre()
    mood: Mood = Mood()
    artists: Artists = Artists()
    collab: Collab = Collab()
    content: Content = Content()
    ranker: Ranker = Ranker()
    index: Index = Index()
    tuned: Tuned = Tuned()
    gates: Gates = Gates()

    @property
    def label(self) -> str:
        """Return `NAME-VERSION`, the name of the bundle folder."""
        return f"{self.name}-{self.version}"


@dataclass(frozen=True)
class RecipeFile:
    """A recipe with the file and the bytes it was read from."""

    path: Path
    recipe: Recipe
    text: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()


def read(path: Path) -> RecipeFile:
    """Read and check a recipe. Raises RecipeError with file, key, and the expected and found values."""
    try:
        text = read_input(path, MAX_RECIPE_BYTES)
    except InputError as error:
        raise RecipeError(f"{path}: expected a recipe file, found: {error}") from error
    return parse(text, path)


def parse(text: bytes, path: Path) -> RecipeFile:
    """Check the text of a recipe. Raises RecipeError with `path`, key, and the expected and found values."""
    try:
        raw = toml_text.parse(text)
    except ValueError as error:
        raise RecipeError(f"{path}: expected TOML, found: {error}") from error
    _check_keys(raw, Recipe, str(path))
    _check_finite(raw, str(path))
    try:
        recipe = msgspec.convert(raw, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error, raw)}") from error
    if isinstance(recipe.ranker.blend, dict) and set(recipe.ranker.blend) != set(COMPONENTS):
        raise RecipeError(
            f"{path}: ranker.blend: expected {', '.join(COMPONENTS)}, found {', '.join(recipe.ranker.blend)}"
        )
    for section in ("split", "genre"):
        shares = getattr(recipe, section)
        if shares.validation + shares.test >= 1:
            raise RecipeError(
                f"{path}: {section}: expected validation + test below 1, found {shares.validation + shares.test:g}"
            )
    if (recipe.split.by == "time") != (recipe.split.before is not None):
        raise RecipeError(
            f'{path}: split.before: expected a date for by = "time", and none otherwise, found'
            f' {recipe.split.before or "none"} for by = "{recipe.split.by}"'
        )
    return RecipeFile(path, recipe, text)


def _explain(error: msgspec.ValidationError, raw: dict[str, Any]) -> str:
    """Return the key, the expected and the found value of an error of msgspec."""
    wrong = field_error(error, options=_options(Recipe))
    value: Any = raw
    for key in re.findall(r"[^.\[\]]+", wrong.path):
        value = value[int(key)] if isinstance(value, list) else value.get(key) if isinstance(value, dict) else None
    wrong = field_error(error, value=value, options=_options(Recipe))
    return f"{'top level' if wrong.path == '$' else wrong.path}: {wrong.message}"


def _options(section: type[Section]) -> dict[str, tuple[str, ...]]:
    """Return the words that each key of a section and those below it may be, for keys that take one of several."""
    options: dict[str, tuple[str, ...]] = {}
    for name, type_ in get_type_hints(section).items():
        if isinstance(type_, type) and issubclass(type_, Section):
            options |= _options(type_)
        for each in (type_, *get_args(type_)):
            if get_origin(each) is Literal:
                options[name] = get_args(each)
    return options


def with_version(recipe_file: RecipeFile, version: str) -> RecipeFile:
    """Return the recipe with another version. Raises RecipeError unless that has a line of its own."""
    text = re.sub(rb"(?m)^version\s*=.*$", f'version = "{version}"'.encode(), recipe_file.text, count=1)
    changed = parse(text, recipe_file.path)
    if changed.recipe != msgspec.structs.replace(recipe_file.recipe, version=version):
        raise RecipeError(f"{recipe_file.path}: version: expected a line of its own before all tables")
    return changed


def _check_finite(raw: dict[str, Any], place: str) -> None:
    """Refuse the numbers nan and inf of TOML wherever they are, in tables and arrays of any depth."""
    left: list[tuple[str, Any]] = [(place, raw)]
    while left:
        place, value = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{place}: expected a finite number, found {value}")
        if isinstance(value, dict):
            left += [(f"{place}: {key}", each) for key, each in value.items()]
        elif isinstance(value, list):
            left += [(f"{place}[{i}]", each) for i, each in enumerate(value)]


def _check_keys(raw: dict[str, Any], section: type[Section], place: str) -> None:
    known = {field.name: field.type for field in msgspec.structs.fields(section)}
    for key, value in raw.items():
        if key not in known:
            raise RecipeError(f"{place}: {key}: unknown key; known here are {', '.join(known)}")
        if isinstance(value, dict) and isinstance(known[key], type) and issubclass(known[key], Section):
            _check_keys(value, known[key], f"{place}: {key}")
        elif isinstance(value, dict) and section is Gates:
            _check_paths(value, f"{place}: {key}")


def _check_paths(raw: dict[str, Any], place: str) -> None:
    for key, value in raw.items():
        if isinstance(value, dict):
            raise RecipeError(f'{place}: {key}: expected a path in quotes, such as "genre.macro_f1", found a table')
