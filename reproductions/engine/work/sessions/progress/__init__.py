"""How far a session is, how long it will still take, and what of that is shown."""

from reproductions.engine.work.sessions.progress.reporters import Reporter as Reporter
from reproductions.engine.work.sessions.progress.reporters import SilentReporter as SilentReporter
from reproductions.engine.work.sessions.progress.reporters import default_reporter as default_reporter
from reproductions.engine.work.sessions.progress.tracker import Shown as Shown
from reproductions.engine.work.sessions.progress.tracker import seconds_by_arm as seconds_by_arm
