"""The page of ``/tasks``: a live table in a browser, updated by server-sent events.

The page loads nothing from elsewhere. Whatever comes from the tasks is set as text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from urllib.parse import parse_qs

from pyasynclife._monitor.answers import Answers, RequestError
from pyasynclife._registry import TaskRegistry
from pyasynclife._shutdown import SignalCoordinator

EVENTS = "/tasks/events"
INTERVAL = 1.0  # seconds between two updates
ROWS = 100

# Only what stands in the page itself may run, and it may ask this server alone.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'"
)


async def updates(
    coordinator: SignalCoordinator, registry: TaskRegistry, query: bytes
) -> AsyncGenerator[bytes, None]:
    """Make the events of one reader, until the shutdown begins.

    Args:
        coordinator: Whose shutdown ends the stream, so that the server need not wait;
            the batches and pools that are attached to it are shown.
        registry: Whose tasks are shown.
        query: The query of the URL: ``sort`` and ``filter``.
    """
    options = parse_qs(query.decode("ascii", "replace"))
    request = {
        "ask": "top",
        "rows": ROWS,
        "sort": options.get("sort", ["silence"])[0],
        "filter": options.get("filter", [""])[0],
    }
    answers = Answers([registry], coordinator)
    stopping = asyncio.ensure_future(coordinator.shutdown_event.wait())
    try:
        while not stopping.done():
            try:
                async for answer in answers.to(request):
                    answer["phase"] = coordinator.phase
                    yield _event(answer)
            except RequestError as error:
                yield _event({"error": str(error)})
                return
            await asyncio.wait([stopping], timeout=INTERVAL)
        yield _event({"phase": coordinator.phase})
    finally:
        stopping.cancel()


def _event(data: object) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tasks</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --stale: #b26a00;
  --failed: #c62828; --healthy: #2e7d32; }
@media (prefers-color-scheme: dark) {
  :root { --stale: #ffb74d; --failed: #ff8a80; --healthy: #81c784; }
}
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.2rem; margin: 1rem 0 .2rem; }
#counts span { display: inline-block; border: 1px solid var(--line); border-radius: 6px;
  padding: .2rem .7rem; margin: .4rem .4rem .4rem 0; }
#counts b { margin-right: .35rem; }
#state { opacity: .75; }
progress { width: 12rem; margin-right: .6rem; vertical-align: middle; }
form { margin: .6rem 0; display: flex; gap: .6rem; flex-wrap: wrap; }
input, select { font: inherit; padding: .2rem .4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; max-width: 28rem; }
th { position: sticky; top: 0; background: Canvas; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.stale { color: var(--stale); } .failed { color: var(--failed); }
.healthy { color: var(--healthy); }
code, pre { font: 12px/1.45 ui-monospace, monospace; }
pre { background: var(--soft); padding: .6rem; margin: .3rem 0 1rem; overflow: auto; }
</style>
<h1>Tasks</h1>
<div id="state" role="status">connecting</div>
<div id="counts"></div>
<div id="lag"></div>
<div id="work"></div>
<form id="options">
  <label>sort by <select name="sort"><option>silence<option>age<option>heartbeats
    <option>restarts</select></label>
  <label>id contains <input name="filter" type="search"></label>
</form>
<table>
  <thead><tr><th>task<th>state<th>health<th class="number">age<th class="number">silence
    <th class="number">heartbeats<th class="number">restarts<th>waits at</thead>
  <tbody id="rows"></tbody>
</table>
<h1>Where they wait</h1>
<div id="places"></div>
<script>
const find = id => document.getElementById(id)
const make = (name, text, kind) => {
  const element = document.createElement(name)
  element.textContent = text
  if (kind) element.className = kind
  return element
}
const seconds = s => s === null ? "-" : s < 10 ? s.toFixed(1) + " s"
  : s < 60 ? Math.floor(s) + " s"
  : s < 3600 ? Math.floor(s / 60) + " m " + Math.floor(s % 60) + " s"
  : Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " m"
const row = task => {
  const line = document.createElement("tr")
  line.append(make("td", task.id), make("td", task.state),
    make("td", task.health, task.health), make("td", seconds(task.age), "number"),
    make("td", seconds(task.silence), "number"),
    make("td", task.heartbeats, "number"), make("td", task.restarts, "number"))
  const where = make("td", "")
  where.append(make("code", task.where.replace(/^.*\\//, "")))
  where.title = task.where
  line.append(where)
  return line
}
const place = group => {
  const some = group.some.join(", ") + (group.count > group.some.length ? ", ..." : "")
  return [make("div", group.count + " x " + some), make("pre", group.where.join("\\n"))]
}
const lag = seen => "loop lag p99 " +
  (seen.p99 === null ? "more" : (seen.p99 * 1000).toFixed(1) + " ms") +
  "; blocked " + seen.blocked + (seen.blocked === 1 ? " time" : " times") +
  (seen.blocked ? ", longest " + seen.longest.toFixed(2) + " s" : "")
const work = one => {
  const line = document.createElement("div")
  const ended = one.done + one.failed + one.cancelled
  if (one.total) {
    const bar = make("progress", "")
    bar.max = one.total
    bar.value = ended
    line.append(bar)
  }
  const parts = [ended + (one.total === null ? "" : " of " + one.total) + " ended",
    one.running + " running"]
  if (one.failed) parts.push(one.failed + " failed")
  if (one.cancelled) parts.push(one.cancelled + " cancelled")
  if (one.paused) parts.push("paused")
  line.append(one.kind + " of " + one.limit + ": " + parts.join(", "))
  return line
}
const show = answer => {
  if (!answer.rows) {
    find("state").textContent = answer.error || "the service is " + answer.phase
    return
  }
  const process = answer.process
  find("state").textContent = process.program + ", pid " + process.pid + ", Python " +
    process.python + ", " + answer.phase + "; " + answer.rows.length + " of " +
    answer.matching + " tasks shown"
  find("counts").replaceChildren(...Object.entries(answer.stats).filter(
    ([name, value]) => value > 0 || name == "alive").map(([name, value]) => {
      const count = make("span", "")
      count.append(make("b", value), name.replace(/_/g, " "))
      return count
    }))
  find("lag").textContent = answer.lag ? lag(answer.lag) : ""
  find("work").replaceChildren(...answer.work.map(work))
  find("rows").replaceChildren(...answer.rows.map(row))
  find("places").replaceChildren(...answer.groups.flatMap(place))
}
let source
const connect = () => {
  if (source) source.close()
  const options = new URLSearchParams(new FormData(find("options")))
  source = new EventSource(location.pathname.replace(/\\/$/, "") + "/events?" + options)
  source.onmessage = event => show(JSON.parse(event.data))
  source.onerror = () => { find("state").textContent = "the service does not answer" }
}
find("options").addEventListener("input", connect)
find("options").addEventListener("submit", event => event.preventDefault())
connect()
</script>
"""
