"""The list of what is watched: one panel of the dashboard each, and the alerts about it.

`python -m deploy` makes `grafana.json` and `alerts.yml` of it. `docs/monitoring.md` says what to do at each alert.
"""

from dataclasses import dataclass
from typing import Literal

CRITICAL: Literal["critical"] = "critical"  # listeners are harmed now
WARNING: Literal["warning"] = "warning"
MAX_SECONDS = 0.1  # of the P95 of an answer
MAX_ERRORS = MAX_SHED = 0.01  # share of the requests
MIN_RECALL = 0.9
MAX_REPORT_AGE_S = 2 * 86_400
MAX_FILES = 0.8  # share of those that may be open
RECOMMEND = '{route="/api/ml/recommend"}'
FAILED = 'musix_requests_total{status="500"}'


@dataclass(frozen=True)
class Alert:
    """An alert rule: it fires when `expression`, in PromQL, has had a value for the time `lasting`."""

    name: str
    expression: str
    lasting: str
    severity: Literal["critical", "warning"]
    summary: str


@dataclass(frozen=True)
class Watched:
    """A panel: its queries in PromQL by legend, and its alerts. `unit` is Grafana's name of it."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    alerts: tuple[Alert, ...] = ()


def _share(part: str, whole: str) -> str:
    """Return the share of one counter in another, by server, over five minutes."""
    return f"sum by (instance) (rate({part}[5m])) / sum by (instance) (rate({whole}[5m]))"


def _shares(counter: str, label: str) -> str:
    """Return the share of each value of a label in a counter, over an hour."""
    rate = f"rate({counter}[1h])"
    return f"sum by ({label}) ({rate}) / ignoring ({label}) group_left () sum({rate})"


def _mean(summary: str, by: str, span: str) -> str:
    """Return the mean of what a summary has observed."""
    return f"sum by ({by}) (rate({summary}_sum[{span}])) / sum by ({by}) (rate({summary}_count[{span}]))"


def _percentile_95(selector: str, by: str) -> str:
    return f"histogram_quantile(0.95, sum by ({by}, le) (rate(musix_request_seconds_bucket{selector}[5m])))"


def _alarm(kind: str) -> str:
    """Return whether the latest report has an alarm of a kind; all servers show the same report."""
    return f'max by (job) (musix_alarms{{kind="{kind}"}}) > 0'


def _by_variant(key: str) -> dict[str, str]:
    return {"{{variant}}": f"max by (job, variant) (musix_live_{key})"}


REQUESTS = (
    Watched(
        "P95 of an answer",
        "95 % of the answers take less. It should be below 100 ms.",
        "s",
        {"{{route}}": _percentile_95("", "route")},
        (
            Alert(
                "SlowAnswers",
                f"{_percentile_95(RECOMMEND, 'instance')} > {MAX_SECONDS:g}",
                "10m",
                WARNING,
                "The P95 of a recommendation is above 100 ms.",
            ),
        ),
    ),
    Watched(
        "Requests a second",
        "By status. 503 are rejected requests and failures of the feedback database.",
        "reqps",
        {"{{status}}": "sum by (status) (rate(musix_requests_total[5m]))"},
        (
            Alert(
                "Errors",
                f"{_share(FAILED, 'musix_requests_total')} > {MAX_ERRORS:g}",
                "5m",
                CRITICAL,
                "More than 1 % of the requests fail.",
            ),
        ),
    ),
    Watched(
        "Rejected requests a second",
        "Requests that got 503 because too many waited.",
        "reqps",
        {"{{route}}": "sum by (route) (rate(musix_shed_total[5m]))"},
        (
            Alert(
                "LoadShed",
                f"{_share('musix_shed_total', 'musix_requests_total')} > {MAX_SHED:g}",
                "5m",
                WARNING,
                "More than 1 % of the requests are rejected.",
            ),
        ),
    ),
    Watched(
        "Refused connections a second",
        "By reason: limits on connections, heads and times.",
        "cps",
        {"{{reason}}": "sum by (reason) (rate(musix_connections_refused_total[5m]))"},
    ),
    Watched(
        "Time by stage",
        "Seconds of work a second, by stage of a recommendation.",
        "s",
        {"{{stage}}": "sum by (stage) (rate(musix_stage_seconds_total[5m]))"},
    ),
    Watched(
        "Ready",
        "1 while a server answers, 0 while the files of its bundle have changed.",
        "none",
        {"{{instance}}": "musix_ready"},
        (
            Alert("NotReady", "musix_ready == 0", "1m", CRITICAL, "The files of the bundle have changed."),
            Alert("Down", 'up{job=~"musix.*"} == 0', "1m", CRITICAL, "A server does not answer Prometheus."),
        ),
    ),
)
MODELS = (
    Watched(
        "Bundles",
        "The bundle that answers, and the versions that should answer but were refused.",
        "none",
        {"{{name}} {{version}}": "musix_bundle", "refused by {{instance}}": "musix_bundle_refused"},
        (Alert("BundleRefused", "musix_bundle_refused > 0", "1m", CRITICAL, "A version is refused: it is broken."),),
    ),
    Watched(
        "Published versions",
        "Versions in the registry.",
        "none",
        {"{{instance}}": "musix_registry_versions"},
    ),
    Watched(
        "Recall of searches",
        "Share of the exact nearest vectors that searches find, of those that are repeated.",
        "percentunit",
        {"{{part}}": _mean("musix_search_recall", "part", "1h")},
        (
            Alert(
                "RecallLow",
                f"{_mean('musix_search_recall', 'part', '6h')} < {MIN_RECALL:g}",
                "30m",
                WARNING,
                "Searches miss more than 10 % of the nearest vectors.",
            ),
        ),
    ),
    Watched(
        "Recommendations a second",
        "By source: with hybrid, listener and tracks are known; with popular, nothing is.",
        "reqps",
        {"{{source}}": "sum by (source) (rate(musix_recommendations_total[5m]))"},
    ),
    Watched(
        "Predicted genres",
        "Share of the classified tracks, by likeliest genre.",
        "percentunit",
        {"{{genre}}": _shares("musix_predicted_genres_total", "genre")},
    ),
    Watched(
        "Predicted moods",
        "Share of the classified tracks, by likeliest mood.",
        "percentunit",
        {"{{mood}}": _shares("musix_predicted_moods_total", "mood")},
    ),
    Watched(
        "Shadow",
        "Share of the first ten tracks that a shadow has too, and the difference of scores.",
        "percentunit",
        {
            "overlap": _mean("musix_shadow_overlap", "job", "1h"),
            "score difference": _mean("musix_shadow_score_drift", "job", "1h"),
            "errors a second": "sum(rate(musix_shadow_errors_total[1h]))",
        },
    ),
)
LISTENERS = (
    Watched(
        "Skip rate",
        "Share of the started tracks that are skipped within 30 s, in the last 7 days. It should be below 20 %.",
        "percentunit",
        _by_variant("skip_rate"),
        (
            Alert("SkipRate", _alarm("skip_rate"), "5m", WARNING, "Listeners skip more than 20 % of the tracks."),
            Alert("SkipRateEmergency", _alarm("emergency"), "0m", CRITICAL, "Listeners skip more than 40 %."),
        ),
    ),
    Watched("Save rate", "It should be above 8 %.", "percentunit", _by_variant("save_rate")),
    Watched("Repeat rate", "It should be above 15 %.", "percentunit", _by_variant("repeat_rate")),
    Watched("Tracks a session", "It should be at least 5.", "none", _by_variant("session_tracks")),
    Watched(
        "Precision at 10",
        "Share of the first ten tracks of a list that are played and not skipped.",
        "percentunit",
        _by_variant("precision"),
    ),
    Watched("Coverage", "Share of the catalogue that was shown.", "percentunit", _by_variant("coverage")),
    Watched("Listeners", "In the last 7 days.", "none", _by_variant("listeners")),
    Watched(
        "Drift",
        "KL divergence of what is played from what was played when the bundle was new, in nats.",
        "none",
        {"{{input}}": "max by (job, input) (musix_drift)"},
        (Alert("Drift", _alarm("drift"), "5m", WARNING, "What listeners play has moved away from the reference."),),
    ),
    Watched(
        "Calibration error",
        "Difference between what the scores promise and what happens.",
        "percentunit",
        {"error": "max by (job) (musix_calibration_error)"},
        (Alert("Calibration", _alarm("calibration"), "5m", WARNING, "Scores no longer mean what they meant."),),
    ),
    Watched(
        "Age of the report",
        "Time since `musix monitor` was called.",
        "s",
        {"age": "max by (job) (musix_report_age_seconds)"},
        (
            Alert(
                "ReportOld",
                f"max by (job) (musix_report_age_seconds) > {MAX_REPORT_AGE_S}",
                "5m",
                WARNING,
                "`musix monitor` was not called for two days.",
            ),
        ),
    ),
    Watched(
        "Recorded lists a second",
        "Lists that were shown, written to the feedback database, refused or dropped.",
        "cps",
        {"{{result}}": "sum by (result) (rate(musix_exposures_total[5m]))"},
        (
            Alert(
                "ExposuresDropped",
                'sum by (instance) (increase(musix_exposures_total{result="dropped"}[10m])) > 0',
                "0m",
                WARNING,
                "Lists were shown and not recorded.",
            ),
        ),
    ),
)
PROCESS = (
    Watched(
        "CPU", "Cores in use.", "none", {"{{instance}}": "sum by (instance) (rate(process_cpu_seconds_total[5m]))"}
    ),
    Watched(
        "Memory",
        "Resident memory; the mapped files of a bundle count in every worker that has read them.",
        "bytes",
        {"{{instance}}": "sum by (instance) (process_resident_memory_bytes)"},
    ),
    Watched(
        "Open files",
        "Share of the files that a process may open, sockets included.",
        "percentunit",
        {"{{instance}}": "max by (instance) (process_open_fds / process_max_fds)"},
        (
            Alert(
                "FilesLow",
                f"max by (instance) (process_open_fds / process_max_fds) > {MAX_FILES:g}",
                "5m",
                WARNING,
                "A process may soon open no more connections.",
            ),
        ),
    ),
)
SECTIONS = {"Requests": REQUESTS, "Models": MODELS, "Listeners": LISTENERS, "Process": PROCESS}
WATCHED = tuple(each for section in SECTIONS.values() for each in section)
ALERTS = tuple(alert for each in WATCHED for alert in each.alerts)
