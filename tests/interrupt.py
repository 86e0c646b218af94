"""Work that is interrupted from its progress."""


class Interrupted(Exception):
    """What :func:`interrupt_after` raises."""


def interrupt_after(points):
    """Progress that ends the work when so many points are done."""

    def progress(done, _):
        if done >= points:
            raise Interrupted

    return progress
