import io.github.rmbgqueue.client.Batch;
import io.github.rmbgqueue.client.Picture;
import io.github.rmbgqueue.client.RemovalOptions;
import io.github.rmbgqueue.client.RetryPolicy;
import io.github.rmbgqueue.client.RmbgClient;
import io.github.rmbgqueue.client.ServiceException;
import io.github.rmbgqueue.client.Submission;
import io.github.rmbgqueue.client.Task;
import io.github.rmbgqueue.client.TaskFailedException;
import io.github.rmbgqueue.client.TaskPage;
import io.github.rmbgqueue.client.TaskStatus;
import io.github.rmbgqueue.client.UnavailableException;
import io.github.rmbgqueue.client.WaitTimeoutException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;

/** Calls the client as a test asks for it: java ClientTest WHAT ADDRESS ARGUMENT... */
public final class ClientTest {
    private static final Duration LIMIT = Duration.ofSeconds(60);

    private static void check(boolean right, Object found) {
        if (!right) {
            throw new AssertionError(String.valueOf(found));
        }
    }

    private static <E extends Throwable> E fails(Class<E> kind, Runnable call) {
        try {
            call.run();
        } catch (Throwable error) {
            check(kind.isInstance(error), error);
            return kind.cast(error);
        }
        throw new AssertionError("no " + kind);
    }

    private static void tasks(RmbgClient client, Path photo, Path broken, Path folder) throws Exception {
        RemovalOptions options = RemovalOptions.none().outputFormat("webp").quality(80).cache(false)
            .metadata(Map.of("größe", List.of(1, "\"zwei\""), "leer", Map.of()));
        Submission submission = client.submit(Picture.of(photo), options);
        Task task = client.awaitTask(submission.taskId(), LIMIT);
        check(task.metadata().toString().equals("{größe=[1, \"zwei\"], leer={}}"), task);
        check(task.format().orElseThrow().equals("webp") && task.expiresAt().isAfter(task.createdAt()), task);
        Path cutout = client.download(task.id(), folder.resolve("größe.webp"));
        check(Files.size(cutout) == task.size(), task);
        check(client.result(task.id()).length == task.size(), task);
        check(client.tasks("succeeded", 100, null).tasks().stream().anyMatch(each -> each.id().equals(task.id())), "list");

        check(client.cancel(task.id()).status() == TaskStatus.SUCCEEDED, "a final task stays");
        client.erase(task.id());
        client.erase(task.id());
        check(fails(ServiceException.class, () -> client.task(task.id())).type().equals("task_not_found"), "erased");

        ServiceException refusal = fails(ServiceException.class, () -> client.submit(
            Picture.of("a.png", new byte[100]), RemovalOptions.none().quality(101)));
        check(refusal.code() == 42201 && refusal.fields().containsKey("quality"), refusal);
        Task failed = fails(TaskFailedException.class,
            () -> client.remove(Picture.of(broken), RemovalOptions.none(), LIMIT)).task();
        check(failed.error().orElseThrow().type().equals("invalid_image"), failed);
        check(fails(java.io.UncheckedIOException.class,
            () -> client.submit(Picture.of(folder.resolve("none")), options)).getMessage().contains("none"), "no file");
        check(!Files.exists(folder.resolve("nothing.png")), "no half files");
    }

    private static void concurrent(RmbgClient client, Path photo) {
        List<CompletableFuture<byte[]>> all = IntStream.range(0, 8)
            .mapToObj(index -> client.removeAsync(
                Picture.of(photo), RemovalOptions.none().maxSide(64 + index), LIMIT))
            .toList();
        all.forEach(each -> check(each.join().length > 100, "a cutout"));
        TaskPage page = client.tasks(null, 5, null);
        TaskPage next = client.tasks(null, 5, page.nextCursor().orElseThrow());
        check(page.tasks().size() == 5 && !next.tasks().isEmpty() && !next.tasks().contains(page.tasks().get(4)), next);
    }

    private static void batch(RmbgClient client, Path photo, Path folder) throws Exception {
        List<Picture> pictures =
            List.of(Picture.of(photo), Picture.of("\"ß\".png", Files.readAllBytes(photo)), Picture.of("c.png", new byte[9]));
        Batch submitted = client.submitBatch(pictures, RemovalOptions.none().maxSide(50));
        Batch batch = client.awaitBatch(submitted.id(), LIMIT);
        check(batch.total() == 3 && batch.items().get(2).error().isPresent(), batch);
        check(batch.items().get(1).name().equals("\"ß\".png"), batch);
        check(Files.size(client.archive(batch.id(), folder.resolve("all.zip"))) > 100, batch);
        client.eraseBatch(batch.id());
        client.eraseBatch(batch.id());
        check(fails(ServiceException.class, () -> client.batch(batch.id())).status() == 404, "erased");
        fails(IllegalArgumentException.class, () -> client.submitBatch(List.of(), RemovalOptions.none()));
    }

    private static void nobody(Path photo) {
        RmbgClient client = RmbgClient.builder(URI.create("http://127.0.0.1:9"))
            .retryPolicy(new RetryPolicy(2, Duration.ofMillis(1), Duration.ofMillis(1))).build();
        fails(UnavailableException.class, () -> client.submit(Picture.of(photo), RemovalOptions.none()));
    }

    public static void main(String[] arguments) throws Exception {
        RmbgClient client = RmbgClient.builder(URI.create(arguments[1])).build();
        Path photo = Path.of(arguments[2]);
        switch (arguments[0]) {
            case "all" -> {
                Path folder = Path.of(arguments[4]);
                tasks(client, photo, Path.of(arguments[3]), folder);
                concurrent(client, photo);
                batch(client, photo, folder);
                nobody(photo);
                try (var files = Files.list(folder)) {
                    check(files.noneMatch(each -> each.toString().endsWith(".part")), "no half files");
                }
            }
            case "submit" -> System.out.println(client.submit(Picture.of(photo), RemovalOptions.none()));
            case "wait" -> {
                String task = client.submit(Picture.of(photo), RemovalOptions.none()).taskId();
                fails(WaitTimeoutException.class, () -> client.awaitTask(task, Duration.ofMillis(300)));
                System.out.println(task);
                check(fails(TaskFailedException.class, () -> client.awaitTask(task, LIMIT)).task().status()
                    == TaskStatus.CANCELED, "canceled");
            }
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }
}
