"""The same work written the way users of other libraries would: what our figures are compared with."""
