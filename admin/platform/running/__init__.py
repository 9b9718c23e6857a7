"""`pooler run`: an app's process with its config vars, restarted by releases, with or without a private
pooler beside it."""
