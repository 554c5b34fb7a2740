"""The executor of handlers whose target is a URL: it sends the event there."""
