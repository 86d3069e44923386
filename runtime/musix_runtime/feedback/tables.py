"""Tables of the feedback database, as the newest step of `migrations.py` leaves them. Times are in ms since 1970."""

from sqlalchemy import BigInteger, Boolean, Column, Integer, MetaData, Table, Text

METADATA = MetaData()

EXPOSURES = Table(
    "exposures",
    METADATA,
    Column("id", BigInteger, primary_key=True),
    Column("list_id", Text, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("bundle", Text, nullable=False),  # its name and version
    Column("digest", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("context", Text, nullable=False),  # JSON of the request's context
    Column("tracks", Text, nullable=False),  # JSON: [{"id", "position", "score"}]
    Column("experiment", Text),  # NAME/NUMBER of the experiment that was running
    Column("variant", Text),  # control or treatment: what was assigned to the user
    Column("duration_us", BigInteger),  # time to make the answer
    Column("error", Text),  # class of the error of a failed recommendation
)
EVENTS = Table(
    "events",
    METADATA,
    Column("id", BigInteger, primary_key=True),
    Column("event_id", Text, nullable=False, unique=True),
    Column("received_ms", BigInteger, nullable=False),
    Column("occurred_ms", BigInteger, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("session_id", Text),
    Column("list_id", Text),
    Column("track_id", Text, nullable=False),
    Column("position", Integer),
    Column("action", Text, nullable=False),
    Column("ms_played", Integer),
)
FORGOTTEN = Table(
    "forgotten",
    METADATA,
    Column("user_sha256", Text, primary_key=True),  # in hexadecimal, of the id in UTF-8
    Column("time_ms", BigInteger, nullable=False),
)
JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Text, primary_key=True),  # random
    Column("name", Text, nullable=False),  # of the bundle
    Column("model", Text, nullable=False),  # what is trained
    Column("state", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("started_ms", BigInteger),  # of the last attempt
    Column("finished_ms", BigInteger),  # null while the job waits or runs
    Column("attempts", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("lease_token", Text),  # random, of the worker that runs the job
    Column("lease_until_ms", BigInteger),
    Column("progress", Text, nullable=False),  # the last line of the output
    Column("log", Text, nullable=False),  # the end of the output
    Column("reason", Text),  # why the job is in its last state
)
REPORTS = Table(
    "reports",
    METADATA,
    Column("id", BigInteger, primary_key=True),
    Column("name", Text, nullable=False),  # of the bundle
    Column("time_ms", BigInteger, nullable=False),
    Column("content", Text, nullable=False),  # JSON of `reports.Report`
)
SCHEMA_VERSION = Table("schema_version", METADATA, Column("version", Integer, nullable=False))
