package io.github.rmbgqueue.client;

/** A task ended without a cutout. */
public final class TaskFailedException extends RmbgException {
    private static final long serialVersionUID = 1L;

    private final transient Task task;

    TaskFailedException(Task task) {
        super(
            task.id() + " is " + task.status().name().toLowerCase(java.util.Locale.ROOT)
                + task.error().map(error -> ": " + error.type() + ": " + error.message()).orElse(""),
            null);
        this.task = task;
    }

    /**
     * Returns the task.
     *
     * @return as it ended; its {@link Task#error()} says why
     */
    public Task task() {
        return task;
    }
}
