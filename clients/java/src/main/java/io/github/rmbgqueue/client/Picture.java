package io.github.rmbgqueue.client;

import java.net.URI;
import java.nio.file.Path;
import java.util.Objects;

/** A picture to be cut out: a file, bytes, an address that the service fetches, or a finished upload. */
public sealed interface Picture {
    /**
     * Sends a file, read anew for each attempt and never held in memory.
     *
     * @param path where it is
     * @return the picture
     */
    static Picture of(Path path) {
        return new File(path);
    }

    /**
     * Sends bytes.
     *
     * @param name a file name, for the names in a batch and its archive
     * @param data the picture's bytes; not copied, so leave them unchanged until the call has ended
     * @return the picture
     */
    static Picture of(String name, byte[] data) {
        return new Bytes(name, data);
    }

    /**
     * Lets the service fetch an address, which has to be public or allowed by the operator.
     *
     * @param address http or https
     * @return the picture
     */
    static Picture at(URI address) {
        return new Address(address);
    }

    /**
     * Uses a file that was sent by tus before.
     *
     * @param uploadId last part of the upload's address
     * @return the picture
     */
    static Picture uploaded(String uploadId) {
        return new Upload(uploadId);
    }

    /**
     * A file.
     *
     * @param path where it is
     */
    record File(Path path) implements Picture {
        public File {
            Objects.requireNonNull(path, "path");
        }
    }

    /**
     * Bytes in memory.
     *
     * @param name a file name
     * @param data the picture's bytes
     */
    record Bytes(String name, byte[] data) implements Picture {
        public Bytes {
            Objects.requireNonNull(name, "name");
            Objects.requireNonNull(data, "data");
        }
    }

    /**
     * An address that the service fetches.
     *
     * @param uri http or https
     */
    record Address(URI uri) implements Picture {
        public Address {
            Objects.requireNonNull(uri, "uri");
        }
    }

    /**
     * A finished upload.
     *
     * @param id last part of the upload's address
     */
    record Upload(String id) implements Picture {
        public Upload {
            Objects.requireNonNull(id, "id");
        }
    }
}
