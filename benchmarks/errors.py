"""What ends the benchmark: one class of errors, whose messages say what would help."""


class BenchError(Exception):
    """The benchmark can't go on."""


class CampaignError(BenchError):
    """It can't be run as asked."""


class ServerError(BenchError):
    """A server can't be used."""


class HolderError(BenchError):
    """A holder did not do its work; the message ends with what it said."""
