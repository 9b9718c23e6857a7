"""The full-screen program: prompt-toolkit shows what `screens` draws and hands keys to `control`.

The feed's thread wakes the screen; verbs run on threads and connections of their own, since PAUSE answers
only when servers are released.
"""

from __future__ import annotations

import threading

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.styles import Style

from admin.repl.address import Address
from admin.repl.link import CannotConnect, CommandFailed, Link, Lost
from admin.top import control, screens
from admin.top.control import Delay, Effect, Leave, Look, Perform, Refresh, Verb, View
from admin.top.feed import Feed
from admin.top.glyphs import ASCII, BLOCKS
from admin.top.model import Frame

ESCAPE_SECONDS = 0.05
"""How long to wait whether an escape begins a longer key."""

_NAMES = {Keys.ControlM: "enter", Keys.ControlI: "tab", Keys.BackTab: "s-tab", Keys.ControlH: "backspace"}


class Top:
    """`pooler top` on one console."""

    def __init__(
        self,
        address: Address,
        feed: Feed,
        *,
        unicode: bool = True,
        depth: ColorDepth | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self.view = View()
        self._address = address
        self._feed = feed
        self._glyphs = BLOCKS if unicode else ASCII
        self.app: Application[None] = Application(
            layout=Layout(Window(FormattedTextControl(self._text, show_cursor=False), wrap_lines=False)),
            key_bindings=self._bindings(),
            full_screen=True,
            style=Style.from_dict(screens.STYLES),
            color_depth=depth,
            input=input,
            output=output,
        )
        self.app.ttimeoutlen = ESCAPE_SECONDS
        self.app.timeoutlen = ESCAPE_SECONDS
        self._verbs: dict[threading.Thread, Link | None] = {}
        feed.on_frame = self.app.invalidate

    def run(self) -> list[threading.Thread]:
        """Show until the person leaves; the threads that are ending."""
        self._feed.start()
        try:
            self.app.run()
        finally:
            self._feed.stop()
            for link in self._verbs.values():
                if link is not None:
                    link.abort()
        return [self._feed, *self._verbs]

    @property
    def frame(self) -> Frame:
        return self.view.frozen or self._feed.frame

    def _text(self) -> StyleAndTextTuples:
        size = self.app.output.get_size()
        canvas = screens.Canvas(size.columns, size.rows, self._glyphs)
        text: StyleAndTextTuples = []
        for line in screens.draw(self.frame, self.view, canvas):
            text += [*line, ("", "\n")]
        return text[:-1]

    def _bindings(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add(Keys.Any)
        @keys.add(Keys.ControlC)
        @keys.add(Keys.Escape)
        @keys.add(Keys.ControlM)
        @keys.add(Keys.ControlI)
        def _press(event: KeyPressEvent) -> None:
            pressed = event.key_sequence[-1].key
            name = _NAMES.get(pressed, pressed) if isinstance(pressed, Keys) else pressed
            self._carry_out(control.press(self.view, self.frame, getattr(name, "value", name)))

        return keys

    def _carry_out(self, effect: Effect | None) -> None:
        match effect:
            case Leave():
                self.app.exit()
            case Perform(verb):
                thread = threading.Thread(target=self._perform, args=(verb,), daemon=True)
                self._verbs[thread] = None
                thread.start()
            case Delay(seconds):
                self._feed.set_delay(seconds)
                self.view.tell(f"every {seconds:g} s")
            case Refresh():
                self._feed.refresh()
            case Look(key):
                self._feed.show_detail(key)

    def _perform(self, verb: Verb) -> None:
        """Send a verb and tell how it ended; on a thread of its own."""
        try:
            link = self._verbs[threading.current_thread()] = Link.open(self._address, "pooler top")
            try:
                link.ask(verb.statement)
            finally:
                link.close()
            self.view.tell(f"{verb.statement}: done")
        except (CannotConnect, CommandFailed, Lost) as error:
            self.view.tell(f"{verb.statement}: {error}")
        del self._verbs[threading.current_thread()]
        self._feed.refresh()
        self.app.invalidate()
