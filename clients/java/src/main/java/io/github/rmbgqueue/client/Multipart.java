package io.github.rmbgqueue.client;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.stream.Collectors;

/** A multipart/form-data body (RFC 7578) whose files are read as they are sent. */
final class Multipart {
    private final String boundary = "rmbg-" + UUID.randomUUID();
    private final List<BodyPublisher> parts = new ArrayList<>();

    String contentType() {
        return "multipart/form-data; boundary=" + boundary;
    }

    /** Adds parameters: lists separated by commas, maps as JSON. */
    Multipart fields(Map<String, Object> values) {
        values.forEach((name, value) -> text(
            "--" + boundary + "\r\nContent-Disposition: form-data; name=\"" + escape(name) + "\"\r\n\r\n"
                + shown(value) + "\r\n"));
        return this;
    }

    /**
     * Adds a file or bytes.
     *
     * @throws UncheckedIOException there is no such file
     */
    Multipart file(String name, Picture picture) {
        String fileName;
        BodyPublisher content;
        if (picture instanceof Picture.File file) {
            if (Files.isDirectory(file.path())) {
                throw new UncheckedIOException(new IOException(file.path() + " is a folder, not a picture"));
            }
            fileName = String.valueOf(file.path().getFileName());
            try {
                content = BodyPublishers.ofFile(file.path());
            } catch (FileNotFoundException error) {
                throw new UncheckedIOException("There is no file " + file.path(), error);
            }
        } else if (picture instanceof Picture.Bytes bytes) {
            fileName = bytes.name();
            content = BodyPublishers.ofByteArray(bytes.data());
        } else {
            throw new IllegalArgumentException("Only files and bytes are sent in a form, not " + picture);
        }
        text("--" + boundary + "\r\nContent-Disposition: form-data; name=\"" + name + "\"; filename=\""
            + escape(fileName) + "\"\r\nContent-Type: application/octet-stream\r\n\r\n");
        parts.add(content);
        text("\r\n");
        return this;
    }

    BodyPublisher publisher() {
        List<BodyPublisher> all = new ArrayList<>(parts);
        all.add(BodyPublishers.ofString("--" + boundary + "--\r\n"));
        return BodyPublishers.concat(all.toArray(BodyPublisher[]::new));
    }

    private void text(String text) {
        parts.add(BodyPublishers.ofString(text, StandardCharsets.UTF_8));
    }

    private static String shown(Object value) {
        if (value instanceof Collection<?> values) {
            return values.stream().map(String::valueOf).collect(Collectors.joining(","));
        }
        return value instanceof Map<?, ?> ? Json.write(value) : String.valueOf(value);
    }

    /** Escapes a name as browsers do (HTML, multipart/form-data encoding). */
    private static String escape(String name) {
        return name.replace("\r", "%0D").replace("\n", "%0A").replace("\"", "%22");
    }
}
