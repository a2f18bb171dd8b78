"""What can a user mend? Every such fault is a PtwError."""


class PtwError(Exception):
    """A fault that the user can mend: the message names file, key and value, and says what would do."""


class NotBuilt(PtwError):
    """What the workspace declares is made by another command, which was not run yet."""
