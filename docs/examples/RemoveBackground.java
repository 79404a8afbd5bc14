import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** Removes a background through /v1.0/removebg with the JDK alone: java RemoveBackground ADDRESS IN OUT. */
public class RemoveBackground {
    public static void main(String[] arguments) throws Exception {
        Path source = Path.of(arguments[1]);
        String boundary = "----rmbg-queue";
        String head = "--" + boundary + "\r\nContent-Disposition: form-data; name=\"size\"\r\n\r\nfull\r\n"
            + "--" + boundary + "\r\nContent-Disposition: form-data; name=\"image_file\"; filename=\""
            + source.getFileName() + "\"\r\nContent-Type: application/octet-stream\r\n\r\n";
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1.0/removebg"))
            .header("X-Api-Key", "INSERT_YOUR_API_KEY_HERE")
            .header("Content-Type", "multipart/form-data; boundary=" + boundary)
            .POST(BodyPublishers.ofByteArrays(List.of(
                head.getBytes(StandardCharsets.UTF_8),
                Files.readAllBytes(source),
                ("\r\n--" + boundary + "--\r\n").getBytes(StandardCharsets.UTF_8))))
            .build();
        HttpResponse<byte[]> response =
            HttpClient.newHttpClient().send(request, BodyHandlers.ofByteArray());
        if (response.statusCode() != 200) {
            System.err.println(response.statusCode() + " " + new String(response.body(), StandardCharsets.UTF_8));
            System.exit(1);
        }
        Files.write(Path.of(arguments[2]), response.body());
        System.out.println(response.headers().firstValue("X-Width").orElse("?"));
    }
}
