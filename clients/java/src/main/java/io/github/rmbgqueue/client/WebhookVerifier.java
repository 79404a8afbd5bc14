package io.github.rmbgqueue.client;

import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Clock;
import java.time.DateTimeException;
import java.time.Duration;
import java.util.Base64;
import java.util.function.Function;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Verifies webhooks as Standard Webhooks 1.0.0 defines: HMAC-SHA256 of id, time and body. Safe for many threads. */
public final class WebhookVerifier {
    /** How old, or how far in the future, a webhook may be. */
    public static final Duration TOLERANCE = Duration.ofMinutes(5);

    private static final String ALGORITHM = "HmacSHA256";
    private static final String PREFIX = "whsec_";
    private static final int MAX_SECONDS_DIGITS = 15;

    private final SecretKeySpec key;
    private final Clock clock;

    /**
     * Makes a verifier by the system's clock.
     *
     * @param secret {@code whsec_…}, as {@code rmbg keys add} printed it
     */
    public WebhookVerifier(String secret) {
        this(secret, Clock.systemUTC());
    }

    /**
     * Makes a verifier.
     *
     * @param secret {@code whsec_…}, as {@code rmbg keys add} printed it
     * @param clock tells how old a webhook is
     */
    public WebhookVerifier(String secret, Clock clock) {
        if (!secret.startsWith(PREFIX)) {
            throw new IllegalArgumentException("A webhook secret begins with " + PREFIX + ".");
        }
        this.key = new SecretKeySpec(Base64.getDecoder().decode(secret.substring(PREFIX.length())), ALGORITHM);
        this.clock = clock;
    }

    /**
     * Returns the event of a request, if the service has signed it within the last five minutes.
     *
     * @param header gives a header of the request by its name, in any case; null if there is none
     * @param body of the request: its bytes as they came, before any parsing
     * @return the event
     * @throws InvalidWebhookException the signature or the time is wrong
     */
    public WebhookEvent verify(Function<String, String> header, byte[] body) {
        String id = required(header, "webhook-id");
        String time = required(header, "webhook-timestamp");
        checkAge(time);
        byte[] expected = ("v1," + Base64.getEncoder().encodeToString(sign(id + "." + time + ".", body)))
            .getBytes(StandardCharsets.UTF_8);
        boolean valid = false;
        // There are several while a secret is being replaced; one valid signature is enough.
        for (String given : required(header, "webhook-signature").split(" ")) {
            valid |= MessageDigest.isEqual(expected, given.getBytes(StandardCharsets.UTF_8));
        }
        if (!valid) {
            throw new InvalidWebhookException("No signature of the webhook is valid: is this its secret?", null);
        }
        try {
            return WebhookEvent.of(id, JsonObject.parse(new String(body, StandardCharsets.UTF_8)));
        } catch (IllegalArgumentException | DateTimeException error) {
            throw new InvalidWebhookException("The webhook is signed, but cannot be read.", error);
        }
    }

    private static String required(Function<String, String> header, String name) {
        String value = header.apply(name);
        if (value == null || value.isEmpty()) {
            throw new InvalidWebhookException("The header " + name + " is missing.", null);
        }
        return value;
    }

    private void checkAge(String time) {
        boolean digits = time.length() <= MAX_SECONDS_DIGITS && time.chars().allMatch(each -> each >= '0' && each <= '9');
        if (!digits || Math.abs(clock.instant().getEpochSecond() - Long.parseLong(time)) > TOLERANCE.toSeconds()) {
            throw new InvalidWebhookException(
                "The webhook's timestamp is not within " + TOLERANCE.toMinutes() + " minutes of now.", null);
        }
    }

    private byte[] sign(String head, byte[] body) {
        try {
            Mac mac = Mac.getInstance(ALGORITHM);
            mac.init(key);
            mac.update(head.getBytes(StandardCharsets.UTF_8));
            return mac.doFinal(body);
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException(error); // every JDK has HmacSHA256
        }
    }
}
