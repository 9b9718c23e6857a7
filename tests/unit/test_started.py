"""All that is started anywhere, with the test in which it fails: what is new has no row, and that is an error."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator

from tests import TREE

STARTS = frozenset(
    ("create_task", "ensure_future", "LightTask", "TaskGroup", "gather", "Thread", "Timer", "ThreadPoolExecutor",
     "submit", "to_thread", "run_in_executor", "run_in_threadpool", "call_later", "call_at", "call_soon",
     "call_soon_threadsafe", "add_reader", "add_writer", "add_signal_handler", "start_server", "Popen",
     "create_subprocess_exec", "forever")
)  # fmt: skip
"""What begins something that goes on by itself, or comes back later."""

OWNER = "whoever waits for it gets its error: "
CALLBACK = "pooler.test_rounds::test_what_fails_in_a_callback_is_told_by_its_name_and_without_its_arguments"

STARTED: dict[str, str] = {
    # Rounds: what is done for ever.
    "pooler/house/janitor.py Janitor.sweep_forever: forever":
        "test_goes_on::test_a_sweep_that_fails_as_a_whole_is_followed_by_the_next",
    "pooler/house/periods.py Periods.turn_forever: forever": "test_goes_on::test_a_period_ends_whatever_fails_of_it",
    "pooler/clients/neighbours.py Neighbours.look_forever: forever":
        "pooler.clients.test_neighbours::test_a_look_that_fails_is_followed_by_the_next",
    "pooler/process/service.py Service._keep_up: create_task":
        "pooler.process.test_service::test_what_ends_by_itself_is_told_and_begun_again",
    "pooler/process/service.py Service._left_off: call_later":
        "pooler.process.test_service::test_what_ends_by_itself_is_told_and_begun_again",
    "pooler/process/accepting.py Acceptor._go_on: add_reader":
        "pooler.process.test_accepting::test_a_listener_that_cannot_be_watched_is_watched_later",
    "pooler/process/accepting.py Acceptor._rest: call_later":
        "pooler.process.test_accepting::test_a_listener_rests_while_there_are_no_descriptors",
    "pooler/commands/fronts.py Fronts.run: gather": "test_goes_on::test_a_front_that_fails_ends_none_of_the_others",
    "pooler/commands/fronts.py Fronts.close: ensure_future":
        "test_goes_on::test_the_end_of_one_front_does_not_depend_on_the_others",
    "pooler/commands/fronts.py Fronts._hand_over: create_task":
        "test_goes_on::test_old_sinks_are_all_closed_whatever_fails",
    "pooler/commands/fronts.py Fronts._close_all: gather": "test_goes_on::test_old_sinks_are_all_closed_whatever_fails",
    "pooler/commands/plane.py Following.run: forever": "test_goes_on::test_the_state_is_followed_whatever_failed",
    "pooler/commands/plane.py Following.foresee: to_thread":
        "pooler.commands.test_plane::test_a_state_that_cannot_be_read_is_no_reason_to_take_over_without_it",
    "pooler/commands/plane.py Following.look: to_thread": "test_goes_on::test_the_state_is_followed_whatever_failed",
    "admin/platform/running/private.py PrivatePooler.start: gather": OWNER + "who starts the private pooler",
    "pooler/aside.py aside: Thread": "test_goes_on::test_what_is_done_beside_the_loop_gives_back_its_error",
    "pooler/aside.py aside.run: call_soon_threadsafe":
        "test_goes_on::test_who_gives_up_what_is_done_beside_the_loop_hears_no_more_of_it",
    "pooler/net/dns.py Dns._pending: Thread": "pooler.net.test_dns::test_with_no_thread_to_be_had_nobody_waits",
    "pooler/net/dns.py Dns._pending: call_soon": "pooler.net.test_dns::test_with_no_thread_to_be_had_nobody_waits",
    "pooler/net/dns.py Dns._ask: call_soon_threadsafe":
        "pooler.net.test_dns::test_what_was_known_stands_while_nobody_can_be_asked",
    "metrics/period.py Reporter.run: forever": "metrics.test_go_on::test_metrics_go_on_when_there_were_no_figures",
    "metrics/period.py Reporter.close: gather": "metrics.test_go_on::test_a_sink_that_fails_costs_the_others_nothing",
    "metrics/web/feed.py Feed.run: forever": "metrics.test_go_on::test_the_page_goes_on_after_a_tick_that_failed",
    "metrics/drains/delivery.py Drain.emit: create_task":
        "metrics.test_go_on::test_a_drain_goes_on_after_a_fault_and_counts_what_it_cost",
    "metrics/drains/delivery.py Drain._run: forever":
        "metrics.test_go_on::test_a_drain_goes_on_after_a_fault_and_counts_what_it_cost",
    "metrics/drains/delivery.py Drain.close: gather":
        "metrics.test_go_on::test_a_drain_goes_on_after_a_fault_and_counts_what_it_cost",
    "metrics/drains/syslog.py SyslogDrain._write: create_task":
        "metrics.test_go_on::test_a_syslog_connection_whose_watch_fails_is_made_anew",
    "metrics/drains/files.py Writer._start: Thread": "metrics.test_go_on::test_a_file_of_lines_goes_on_after_a_fault",
    "metrics/drains/statsd.py StatsdPush.push: create_task":
        "metrics.test_go_on::test_a_push_to_statsd_that_fails_costs_its_lines_only",
    "metrics/drains/statsd.py StatsdPush.close: gather":
        "metrics.test_go_on::test_a_push_to_statsd_that_fails_costs_its_lines_only",
    "metrics/drains/otlp.py OtlpPush._start: Thread":
        "metrics.test_go_on::test_a_push_of_opentelemetry_that_fails_costs_itself_only",
    "metrics/web/doorman.py Doorman.open: add_reader":
        "metrics.web.test_doorman::test_who_cannot_be_let_in_is_let_go_and_the_next_comes_in",
    "metrics/web/doorman.py Doorman._arrived: create_task":
        "metrics.web.test_doorman::test_who_cannot_be_let_in_is_let_go_and_the_next_comes_in",
    "metrics/web/doorman.py Doorman._accept: call_later":
        "metrics.web.test_doorman::test_without_a_descriptor_one_goes_and_accepting_goes_on",
    "metrics/web/doorman.py Doorman._go_on: add_reader":
        "metrics.web.test_doorman::test_without_a_descriptor_one_goes_and_accepting_goes_on",
    "metrics/web/doorman.py Doorman._go_on: call_later":
        "metrics.web.test_doorman::test_without_a_descriptor_one_goes_and_accepting_goes_on",
    "metrics/web/listener.py serve_http: create_task":
        "metrics.test_go_on::test_the_http_listener_goes_on_after_a_turn_that_failed",
    "metrics/web/listener.py serve_http.Server.main_loop: forever":
        "metrics.test_go_on::test_the_http_listener_goes_on_after_a_turn_that_failed",
    "metrics/web/requests.py protocol.Reader.connection_made: call_soon":
        "metrics.web.test_requests::test_a_fault_in_reading_one_request_is_told_and_the_others_are_served",
    "metrics/foreign/several.py Several.live: Thread":
        "metrics.foreign.test_several::test_a_bug_in_a_thread_is_raised_where_it_is_seen",
    "metrics/foreign/command.py _serve: create_task":
        "metrics.test_go_on::test_the_memory_of_another_pgbouncer_goes_on",
    "metrics/foreign/command.py _Memory.run: forever":
        "metrics.test_go_on::test_the_memory_of_another_pgbouncer_goes_on",
    "admin/platform/running/supervision.py Supervisor._release: forever":
        "test_goes_on::test_an_app_lives_on_when_a_look_for_releases_fails",
    "admin/platform/running/supervision.py Supervisor._release.look: to_thread":
        "test_goes_on::test_an_app_lives_on_when_a_look_for_releases_fails",
    # One connection's, one server's: it is over when that fails, and nothing else is.
    "pooler/clients/door.py Door._pass_on: create_task":
        "pooler.house.test_bouncer::test_a_client_that_the_relay_does_not_take_is_closed_and_counted_out",
    "pooler/servers/hubs.py Hub._serve: ensure_future":
        "pooler.servers.test_hubs::test_a_listening_server_that_fails_is_opened_again",
    "pooler/servers/hubs.py Hub._serve: gather":
        "pooler.servers.test_hubs::test_a_listening_server_that_fails_is_opened_again",
    "pooler/servers/hubs.py Hub._take_the_place_of: ensure_future": OWNER + "the change of connections",
    "pooler/servers/opener.py Opener.begin: create_task":
        "test_goes_on::test_a_server_that_cannot_even_be_tried_is_tried_again",
    "pooler/servers/opener.py Opener._log_in: call_later": CALLBACK,
    "pooler/servers/opener.py Opener._set_back: call_later":
        "test_goes_on::test_a_server_that_cannot_even_be_tried_is_tried_again",
    "pooler/house/bouncer.py Bouncer.__init__: call_soon":
        "pooler.house.test_bouncer::test_a_wish_that_cannot_be_dealt_with_stops_nobody",
    "pooler/house/control.py Control.shut_after_clients: call_later":
        "pooler.house.test_control::test_clients_come_in_until_balancers_know",
    "pooler/house/reconfigure.py Reconfiguration.reload: create_task":
        "test_goes_on::test_a_reload_that_fails_is_told_and_the_next_one_comes",
    "pooler/process/service.py Service.hang_up: create_task":
        "test_goes_on::test_a_reload_that_fails_is_told_and_the_next_one_comes",
    "pooler/ending.py Ending.hurry: Thread": "pooler.test_ending::test_without_room_for_a_thread_it_ends_at_once",
    "pooler/house/reconfigure.py Reconfiguration._remove: call_soon":
        "test_goes_on::test_a_database_that_was_removed_goes_with_its_last_connection",
    "pooler/process/service.py Service.heed_signals: add_signal_handler":
        "pooler.test_rounds::test_what_fails_in_a_callback_is_told_by_its_name_and_without_its_arguments",
    "metrics/foreign/command.py _on_signals: add_signal_handler":
        "pooler.test_rounds::test_what_fails_in_a_callback_is_told_by_its_name_and_without_its_arguments",
    "admin/platform/running/supervision.py Supervisor._run: add_signal_handler":
        "pooler.test_rounds::test_what_fails_in_a_callback_is_told_by_its_name_and_without_its_arguments",
    "pooler/process/service.py Service._shutting_down: create_task":
        "test_goes_on::test_an_orderly_end_that_fails_is_an_end",
    "pooler/process/service.py Service._close_connections: gather": OWNER + "errors are values there",
    "pooler/clients/threads.py _threads: ThreadPoolExecutor": OWNER + "the login",
    "pooler/clients/threads.py in_thread: submit": OWNER + "the login",
    "pooler/net/derivation.py Memory.prepare: Thread":
        "pooler.net.test_derivation::test_with_no_thread_to_be_had_each_is_derived_when_it_is_needed",
    "pooler/net/derivation.py Memory.derive: submit":
        "pooler.net.test_derivation::test_work_that_failed_is_tried_again",
    "pooler/net/derivation.py _in_thread: submit": OWNER + "the login",
    "pooler/net/derivation.py _threads: ThreadPoolExecutor": OWNER + "the login",
    "pooler/clients/login.py prove: call_later":
        "pooler.test_rounds::test_what_fails_in_a_callback_is_told_by_its_name_and_without_its_arguments",
    "pooler/net/channel.py LoopSocket.watch: add_reader": OWNER + "the login",
    "pooler/net/channel.py while_there: ensure_future": OWNER + "the login",
    "pooler/net/channel.py while_there: gather": OWNER + "the login",
    "pooler/clients/replication.py unless: ensure_future": OWNER + "the login",
    "pooler/clients/replication.py unless: gather": OWNER + "the login",
    "pooler/commands/embedded.py _Start._launch: Popen": OWNER + "the start",
    "metrics/web/stream.py _Stream.__call__: ensure_future": OWNER + "the request",
    "metrics/web/stream.py _stop: gather": OWNER + "the request",
    "metrics/web/stream.py beating: ensure_future": OWNER + "the request",
    "metrics/web/stream.py beating: gather": OWNER + "the request",
    "admin/platform/api/serving.py _perform: run_in_threadpool": OWNER + "the request",
    "admin/platform/api/serving.py _events: ensure_future": OWNER + "the request",
    "admin/platform/running/private.py PrivatePooler._ready: ensure_future": OWNER + "the start",
    "admin/platform/running/process.py Process.start: create_subprocess_exec": OWNER + "the start",
    "admin/platform/running/supervision.py _task: ensure_future": OWNER + "the supervisor",
    # Workers.
    "pooler/commands/worker.py run.serve.turn_forever: forever": "pooler.test_rounds::test_the_next_round_comes",
    "pooler/workers/desk.py Desk.look_forever: forever": "pooler.test_rounds::test_the_next_round_comes",
    "pooler/workers/hand.py Hand.settle_forever: forever": "pooler.test_rounds::test_the_next_round_comes",
    "pooler/workers/desk.py Desk.keep: create_task":
        "pooler.test_rounds::test_what_is_done_once_ends_nothing_beside_it",
    "pooler/workers/desk.py Desk._ended: call_later": CALLBACK,
    "pooler/workers/desk.py Desk._start_again: call_later": CALLBACK,
    "pooler/workers/exchange.py Exchange.want: call_later": CALLBACK,
    "pooler/workers/exchange.py Exchange._press: call_later": CALLBACK,
    "pooler/workers/rights.py Rights._go_on: call_later": CALLBACK,
    "pooler/workers/line.py Line.__init__: add_reader": CALLBACK,
    "pooler/workers/line.py Line._writable: add_writer": CALLBACK,
    "pooler/workers/line.py Line._take: call_later":
        "pooler.workers.test_line::test_what_there_is_no_memory_for_is_heard_when_there_is",
    "pooler/workers/line.py Line._heard: create_task":
        "pooler.workers.test_line::test_a_question_is_answered_or_has_failed",
    "pooler/workers/desk.py Desk._start: Popen": OWNER + "the start",
    "pooler/workers/desk.py Desk.ask_all: gather": OWNER + "errors are values there",
    "pooler/workers/desk.py Desk.gather: gather": OWNER + "the question",
    "pooler/workers/desk.py Desk._fails: gather": OWNER + "the question",
    "pooler/workers/desk.py Desk.perform: gather": OWNER + "the command",
    "pooler/workers/desk.py Desk.figures: gather": OWNER + "the question",
    "pooler/workers/desk.py Desk.gather_descriptors: gather": OWNER + "the question",
    "pooler/workers/desk.py Desk.gather_sessions: gather": OWNER + "the question",
    "pooler/workers/succession.py Surrender.give: gather": OWNER + "errors are values there",
    "pooler/workers/succession.py _answered: gather": OWNER + "the takeover",
    "pooler/workers/succession.py Accession.run: gather": OWNER + "the takeover",
    "pooler/workers/succession.py Accession._ask: ensure_future": OWNER + "the takeover",
    "pooler/workers/succession.py Accession._ask: gather": OWNER + "errors are values there",
    "pooler/workers/hearing.py Ears._tell_lost: gather": OWNER + "the question",
    "pooler/workers/hand.py Hand.console: create_task": OWNER + "the session",
    "pooler/workers/hand.py Hand.console: gather": OWNER + "the session",
}  # fmt: skip
"""Place and kind of all that is started, and the test in which it fails."""


def started() -> Iterator[str]:
    for package in ("pooler", "metrics", "admin/platform"):
        for path in sorted((TREE / package).rglob("*.py")):
            yield from calls(ast.parse(path.read_text()), str(path.relative_to(TREE)), [])


def calls(node: ast.AST, path: str, where: list[str]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            function = child.func
            name = getattr(function, "attr", "") or getattr(function, "id", "")
            if name in STARTS:
                yield f"{path} {'.'.join(where)}: {name}"
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from calls(child, path, [*where, child.name] if inside else where)  # type: ignore[attr-defined]


def test_all_that_is_started_has_failed_in_a_test() -> None:
    found = set(started())
    assert found - set(STARTED) == set(), "started, and not on the list"
    assert set(STARTED) - found == set(), "on the list, and not started any more"
    for test in STARTED.values():
        if not test.startswith(OWNER):
            module, _, name = test.partition("::")
            assert callable(getattr(importlib.import_module(f"tests.unit.{module}"), name)), test
