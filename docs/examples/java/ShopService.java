import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.github.rmbgqueue.client.InvalidWebhookException;
import io.github.rmbgqueue.client.Picture;
import io.github.rmbgqueue.client.RemovalOptions;
import io.github.rmbgqueue.client.RmbgClient;
import io.github.rmbgqueue.client.RmbgException;
import io.github.rmbgqueue.client.ServiceException;
import io.github.rmbgqueue.client.TaskStatus;
import io.github.rmbgqueue.client.WebhookEvent;
import io.github.rmbgqueue.client.WebhookVerifier;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.Executors;

/**
 * A shop's photo service on the JDK alone. POST /photos/NUMBER submits a product's photo, the webhook brings
 * its end, and GET /photos/NUMBER returns the cutout.
 *
 * <p>java ShopService PORT ADDRESS-OF-RMBG WEBHOOK-SECRET FOLDER
 */
public final class ShopService {
    private static final int MAX_HOOK_BYTES = 20_000;

    private final RmbgClient rmbg;
    private final WebhookVerifier webhooks;
    private final URI hook;
    private final Path folder;

    private ShopService(RmbgClient rmbg, WebhookVerifier webhooks, URI hook, Path folder) {
        this.rmbg = rmbg;
        this.webhooks = webhooks;
        this.hook = hook;
        this.folder = folder;
    }

    private void photos(HttpExchange exchange) throws IOException {
        String number = exchange.getRequestURI().getPath().substring("/photos/".length());
        if (number.isEmpty() || !number.chars().allMatch(Character::isLetterOrDigit)) {
            answer(exchange, 404, "A product's number has letters and digits only.");
        } else if (exchange.getRequestMethod().equals("POST")) {
            submit(exchange, number);
        } else if (Files.exists(folder.resolve(number + ".png"))) {
            answer(exchange, 200, Files.readAllBytes(folder.resolve(number + ".png")));
        } else {
            answer(exchange, 404, "There is no cutout yet.");
        }
    }

    private void submit(HttpExchange exchange, String number) throws IOException {
        Picture photo = Picture.of(number, exchange.getRequestBody().readAllBytes());
        RemovalOptions options = RemovalOptions.none().webhook(hook).metadata(Map.of("product", number));
        try {
            answer(exchange, 202, rmbg.submit(photo, options).taskId());
        } catch (ServiceException refusal) {
            answer(exchange, refusal.status(), refusal.getMessage());
        } catch (RmbgException error) {
            answer(exchange, 503, error.getMessage());
        }
    }

    private void hooks(HttpExchange exchange) throws IOException {
        byte[] body = exchange.getRequestBody().readNBytes(MAX_HOOK_BYTES);
        WebhookEvent event;
        try {
            event = webhooks.verify(exchange.getRequestHeaders()::getFirst, body);
        } catch (InvalidWebhookException error) {
            answer(exchange, 400, error.getMessage());
            return;
        }
        // Saving the same cutout twice does no harm, so events that come again need no list of ids. An answer
        // that is no 2xx, should the download fail, has the event sent again.
        try {
            event.task().filter(task -> task.status() == TaskStatus.SUCCEEDED).ifPresent(task ->
                rmbg.download(task.id(), folder.resolve(task.metadata().get("product") + ".png")));
        } catch (RuntimeException error) {
            System.err.println("The cutout was not saved: " + error.getMessage());
            answer(exchange, 500, "The cutout was not saved.");
            return;
        }
        answer(exchange, 204, new byte[0]);
    }

    private static void answer(HttpExchange exchange, int status, String text) throws IOException {
        answer(exchange, status, text.getBytes(StandardCharsets.UTF_8));
    }

    private static void answer(HttpExchange exchange, int status, byte[] body) throws IOException {
        try (exchange) {
            exchange.sendResponseHeaders(status, body.length == 0 ? -1 : body.length);
            exchange.getResponseBody().write(body);
        }
    }

    /**
     * Runs the service.
     *
     * @param arguments port, address of rmbg-queue, webhook secret, folder of the cutouts
     * @throws IOException the port is taken, or the folder cannot be made
     */
    public static void main(String[] arguments) throws IOException {
        if (arguments.length != 4) {
            System.err.println("java ShopService PORT ADDRESS-OF-RMBG WEBHOOK-SECRET FOLDER");
            System.exit(2);
        }
        Files.createDirectories(Path.of(arguments[3]));
        InetAddress host = InetAddress.getLoopbackAddress();
        HttpServer server = HttpServer.create(new InetSocketAddress(host, Integer.parseInt(arguments[0])), 0);
        ShopService service = new ShopService(
            RmbgClient.builder(URI.create(arguments[1])).apiKey(System.getenv("RMBG_API_KEY")).build(),
            new WebhookVerifier(arguments[2]),
            URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/hooks/rmbg"),
            Path.of(arguments[3]));
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/photos/", service::photos);
        server.createContext("/hooks/rmbg", service::hooks);
        server.start();
        System.out.println("listening on " + server.getAddress().getPort());
    }
}
