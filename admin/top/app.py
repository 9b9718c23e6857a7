"""The full-screen program: prompt-toolkit shows what `screens` draws and hands keys to `control`.

The feed's thread wakes the screen; verbs run on threads and connections of their own, since PAUSE answers
only when servers are released.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from prompt_toolkit.application import Application
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.styles import Style

from admin.client.link import CannotConnect, CommandFailed, Link, Lost
from admin.top import choices, control, pieces, screens
from admin.top.control import Delay, Effect, Leave, Look, Perform, Refresh, Remember, Switch
from admin.top.feed import Feed
from admin.top.glyphs import ASCII, BLOCKS
from admin.top.model import Frame
from admin.top.pieces import StyledLine
from admin.top.view import Verb, View

ESCAPE_SECONDS = 0.05
"""How long to wait whether an escape begins a longer key."""

_NAMES = {Keys.ControlM: "enter", Keys.ControlI: "tab", Keys.BackTab: "s-tab", Keys.ControlH: "backspace"}


class Top:
    """`pooler top` on one console, or on several of which one is on the screen."""

    def __init__(
        self,
        feeds: Sequence[Feed],
        *,
        unicode: bool = True,
        depth: ColorDepth | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self.view = View()
        self.view.hidden = choices.load(self.view.hidden)
        self._lines: list[StyledLine] = []
        self._feeds = feeds
        self._feed = feeds[0]
        self._glyphs = BLOCKS if unicode else ASCII
        self.app: Application[None] = Application(
            layout=Layout(Window(_Drawing(self), wrap_lines=False)),
            mouse_support=Condition(lambda: self.view.mouse),
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
        for feed in feeds:
            feed.on_frame = self.app.invalidate

    def run(self) -> list[threading.Thread]:
        """Show until the person leaves; the threads that are ending."""
        for feed in self._feeds:
            feed.start()
        try:
            self.app.run()
        finally:
            for feed in self._feeds:
                feed.stop()
            for link in self._verbs.values():
                if link is not None:
                    link.abort()
        return [*self._feeds, *self._verbs]

    @property
    def frame(self) -> Frame:
        if self.view.frozen is not None:
            return self.view.frozen
        frame = self._feed.frame
        return replace(frame, beside=tuple(feed.frame for feed in self._feeds)) if len(self._feeds) > 1 else frame

    def text(self) -> StyleAndTextTuples:
        size = self.app.output.get_size()
        canvas = pieces.Canvas(size.columns, size.rows, self._glyphs)
        self._lines = screens.draw(self.frame, self.view, canvas)
        text: StyleAndTextTuples = []
        for line in self._lines:
            text += [*line, ("", "\n")]
        return text[:-1]

    def point(self, event: MouseEvent) -> None:
        """Something was done with the mouse."""
        match event.event_type:
            case MouseEventType.SCROLL_UP | MouseEventType.SCROLL_DOWN as way:
                control.wheel(self.view, self.frame, way is MouseEventType.SCROLL_UP)
            case MouseEventType.MOUSE_UP if event.position.y < len(self._lines):
                target = pieces.target(self._lines[event.position.y], event.position.x)
                self._carry_out(control.click(self.view, self.frame, target))

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
                thread = threading.Thread(target=self._perform, args=(verb, self._feed), daemon=True)
                self._verbs[thread] = None
                thread.start()
            case Delay(seconds):
                for feed in self._feeds:
                    feed.set_delay(seconds)
                self.view.tell(f"every {seconds:g} s")
            case Refresh():
                self._feed.refresh()
            case Look(key):
                self._feed.show_detail(key)
            case Switch(number):
                self._feed.show_detail(None)
                self._feed = self._feeds[number]
            case Remember():
                choices.keep(self.view.hidden)

    def _perform(self, verb: Verb, feed: Feed) -> None:
        """Send a verb and tell how it ended; on a thread of its own."""
        try:
            link = self._verbs[threading.current_thread()] = Link.open(feed.address, "pooler top")
            try:
                link.ask(verb.statement)
            finally:
                link.close()
            self.view.tell(f"{verb.statement}: done")
        except (CannotConnect, CommandFailed, Lost) as error:
            self.view.tell(f"{verb.statement}: {error}")
        del self._verbs[threading.current_thread()]
        feed.refresh()
        self.app.invalidate()


class _Drawing(FormattedTextControl):
    """The whole screen; what is done to it with the mouse is the program's to judge."""

    def __init__(self, top: Top) -> None:
        super().__init__(top.text, show_cursor=False)
        self._top = top

    def mouse_handler(self, mouse_event: MouseEvent) -> None:
        self._top.point(mouse_event)
