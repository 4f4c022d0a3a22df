"""The composition root: builds the parts from the configuration, runs and supervises the processes.

:mod:`.serve` is the supervisor; receiving, grading and delivering are processes of their own (:mod:`.child`) that share
the spool and the database and nothing else. Nothing is imported here: a child and ``status`` need no scheduler.
"""
