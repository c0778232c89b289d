"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """Bad input, told in one sentence that names the file, value or flag and the fix.

    The command line prints the sentence to standard error and exits with status 2.
    """
