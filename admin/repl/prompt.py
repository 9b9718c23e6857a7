"""The prompt: reads what a person types, with completion, colours, history, suggestions and the toolbar.

All of prompt-toolkit's keys, emacs' and vi's, and four of ours. It hands complete text to the session and
never blocks on the server itself: what it shows comes from the background.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.styles import Style

from admin.client import colours
from admin.client.terminal import unicode_terminal
from admin.repl import highlight, toolbar
from admin.repl.background import Background, Facts
from admin.repl.completion import ConsoleCompleter
from admin.repl.history import Past, SuggestWhatWorked, opened
from admin.repl.session import Quit, Session, Trouble
from admin.repl.statements import complete, split

STYLE = Style.from_dict(
    {
        **highlight.STYLES,
        **toolbar.STYLES,
        "prompt": "bold",
        "prompt.place": "ansigreen bold",
        "continuation": "dim",
        "auto-suggestion": "dim",
    }
)


CONTINUATIONS = ("; runs it ... ", "; ... ", "... ")
ENDS_IT = "; or an empty line runs it "


class Prompt:
    """A person's prompt on one session."""

    def __init__(
        self,
        session: Session,
        background: Background,
        *,
        history: Past | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._session = session
        self._background = background
        self._glyphs = unicode_terminal()
        self._history = history if history is not None else opened()
        self._reader: PromptSession[str] = PromptSession(
            message=self._message,
            multiline=True,
            prompt_continuation=_continuation,
            rprompt=self._waits_for,
            lexer=highlight.ConsoleLexer(lambda: background.facts.vocabulary),
            completer=ConsoleCompleter(lambda: background.facts, self._want),
            complete_while_typing=True,
            reserve_space_for_menu=6,
            auto_suggest=SuggestWhatWorked(self._history),
            history=self._history,
            bottom_toolbar=self._toolbar,
            key_bindings=self._bindings(),
            enable_open_in_editor=True,
            tempfile_suffix=".sql",
            style=STYLE,
            include_default_pygments_style=False,
            color_depth=_depth(),
            input=input,
            output=output,
        )
        self._missed: Facts | None = None
        background.on_change = self._changed

    def run(self) -> int:
        """Prompt until the person leaves."""
        while True:
            try:
                text = self.read()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return 0
            try:
                self.obey(text)
            except Quit:
                return 0

    def read(self) -> str:
        """One complete text. Raises KeyboardInterrupt (the line is dropped) and EOFError."""
        prefill, self._session.prefill = self._session.prefill, ""
        self._reader.editing_mode = EditingMode.VI if self._session.options.vi else EditingMode.EMACS
        self._background.show(True)
        try:
            return self._reader.prompt(default=prefill)
        finally:
            self._background.show(False)

    def obey(self, text: str) -> None:
        """Run everything in the text; the first failure, or Ctrl-C, drops the rest."""
        try:
            for item in split(text):
                self._session.run(item)
        except Trouble as trouble:
            self._history.failed(text)
            self._session.terminal.say(str(trouble))
        except KeyboardInterrupt:
            self._session.terminal.say("\nstopped")

    def _want(self, *topics: str) -> None:
        """Completion used these topics; if they were old, it is shown again once they are fresh."""
        if self._background.want(*topics):
            self._missed = self._background.facts

    def _changed(self) -> None:
        """Called by the background's thread when there is something new."""
        app = self._reader.app
        app.invalidate()
        missed, loop = self._missed, app.loop
        if missed is not None and missed is not self._background.facts and loop is not None:
            self._missed = None
            with contextlib.suppress(RuntimeError):  # the prompt's loop may end meanwhile
                loop.call_soon_threadsafe(self._complete_again)

    def _complete_again(self) -> None:
        buffer = self._reader.default_buffer
        if buffer.text and buffer.complete_state is None and self._reader.app.is_running:
            buffer.start_completion(select_first=False)

    def _message(self) -> StyleAndTextTuples:
        return [("class:prompt.place", self._session.connector.place), ("class:prompt", " > ")]

    def _waits_for(self) -> StyleAndTextTuples:
        """What a statement of several lines waits for, so that nobody takes the next line for the next command."""
        waits = "\n" in self._reader.default_buffer.text
        return [("class:continuation", ENDS_IT)] if waits else []

    def _toolbar(self) -> StyleAndTextTuples:
        session, options = self._session, self._session.options
        told = [
            "vi" if options.vi else "",
            options.format if options.format != "table" else "",
            "human" if options.human else "",
        ]
        where = toolbar.Place(session.connector.label, " ".join(filter(None, told)), self._glyphs)
        width = self._reader.app.output.get_size().columns
        return list(toolbar.bar(self._background.pulse, where, width))

    def _bindings(self) -> KeyBindings:
        keys = KeyBindings()
        typing = has_focus("DEFAULT_BUFFER")
        keys.add("tab", filter=typing)(lambda event: _complete(event, 1))
        keys.add("s-tab", filter=typing)(lambda event: _complete(event, -1))
        ready = Condition(lambda: complete(self._reader.default_buffer.text))

        @keys.add("enter", filter=typing & ready)
        def _run(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=typing)
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("f4")
        def _change_keys(event: KeyPressEvent) -> None:
            self._session.options.vi = not self._session.options.vi
            mode = EditingMode.VI if self._session.options.vi else EditingMode.EMACS
            event.app.editing_mode = mode

        return keys


def _complete(event: KeyPressEvent, step: int) -> None:
    """Tab: the next completion, round and round. What was typed is never what comes next: that would take the word
    away again. A word without alternatives is finished by its first Tab."""
    buffer = event.current_buffer
    state = buffer.complete_state
    count = len(state.completions) if state else 0
    if state is None or not count or (count == 1 and state.complete_index == 0):
        buffer.complete_state = None
        buffer.start_completion(insert_common_part=True)
        return
    here = state.complete_index
    buffer.go_to_completion((0 if step > 0 else count - 1) if here is None else (here + step) % count)


def _continuation(width: int, line: int, wrapped: int) -> StyleAndTextTuples:
    told = next(text for text in CONTINUATIONS if len(text) <= max(width, len(CONTINUATIONS[-1])))
    return [("class:continuation", told.rjust(width))]


def _depth() -> ColorDepth | None:
    """No colours for NO_COLOR; else what prompt-toolkit finds out."""
    import sys

    return None if colours.wanted(sys.stdout) else ColorDepth.DEPTH_1_BIT


def prefers_vi(home: Callable[[], Path] = Path.home) -> bool:
    """Whether readline is set to vi's keys on this account, or the editor is vi's kind of choice for keys."""
    inputrc = Path(os.environ.get("INPUTRC") or home() / ".inputrc")
    try:
        text = inputrc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    words = [line.split() for line in text.splitlines()]
    return ["set", "editing-mode", "vi"] in words
