package io.github.rmbgqueue.client;

import java.util.List;
import java.util.Optional;

/**
 * One page of the caller's tasks, newest first.
 *
 * @param tasks of this page
 * @param nextCursor where the next page begins; empty on the last one
 */
public record TaskPage(List<Task> tasks, Optional<String> nextCursor) {}
