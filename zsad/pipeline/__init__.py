"""The distributed job: Ray lives here and nowhere below."""
