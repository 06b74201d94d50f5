"""Running an iterator in a thread of its own, ahead of the one who takes its items."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """The items of a generator, made early, as long as those that wait are below `room` together.

    An error of the generator is raised where its items are taken. `close` ends the thread at the
    generator's next item, and closes the generator.
    """

    def __init__(self, items: Generator[Item], *, weigh: Callable[[Item], int], room: int) -> None:
        self._items = items
        self._weigh = weigh
        self._room = room
        self._waiting: deque[Item] = deque()
        self._weight = 0
        self._error: BaseException | None = None
        self._ended = False  # the generator, or by `close`
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="vitkit-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Ahead[Item]":
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._waiting:
                item = self._waiting.popleft()
                self._weight -= self._weigh(item)
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            raise StopIteration

    def close(self) -> None:
        """Want no more."""
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # raised in `__next__`
            self._error = error
        finally:
            self._items.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Once there is room; False if no more is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._weight < self._room or self._ended)
            if self._ended:
                return False
            self._waiting.append(item)
            self._weight += self._weigh(item)
            self._changed.notify_all()
            return True
