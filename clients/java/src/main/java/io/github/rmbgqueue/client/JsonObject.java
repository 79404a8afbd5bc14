package io.github.rmbgqueue.client;

import java.time.Instant;
import java.time.OffsetDateTime;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** A JSON object, whose members are read by type; a member that is absent or null reads as nothing. */
record JsonObject(Map<String, Object> values) {
    private static final JsonObject EMPTY = new JsonObject(Map.of());

    /**
     * Parses an object.
     *
     * @throws IllegalArgumentException it is no JSON, or no object
     */
    static JsonObject parse(String text) {
        if (!(Json.parse(text) instanceof Map<?, ?> map)) {
            throw new IllegalArgumentException("This is no JSON object.");
        }
        return of(map);
    }

    boolean has(String name) {
        return values.get(name) != null;
    }

    Optional<String> optional(String name) {
        return Optional.ofNullable(values.get(name)).map(Object::toString);
    }

    String text(String name) {
        return optional(name).orElse("");
    }

    long number(String name) {
        return values.get(name) instanceof Number number ? number.longValue() : 0;
    }

    double decimal(String name) {
        return values.get(name) instanceof Number number ? number.doubleValue() : 0;
    }

    boolean flag(String name) {
        return Boolean.TRUE.equals(values.get(name));
    }

    Instant time(String name) {
        return optional(name).map(JsonObject::instant).orElse(Instant.EPOCH);
    }

    JsonObject object(String name) {
        return values.get(name) instanceof Map<?, ?> map ? of(map) : EMPTY;
    }

    List<JsonObject> objects(String name) {
        if (!(values.get(name) instanceof List<?> list)) {
            return List.of();
        }
        return list.stream().map(each -> each instanceof Map<?, ?> map ? of(map) : EMPTY).toList();
    }

    /** Reads a time such as {@code 2026-11-22T10:00:00.5+00:00}. */
    static Instant instant(String text) {
        return OffsetDateTime.parse(text).toInstant();
    }

    @SuppressWarnings("unchecked") // the parser makes no other keys
    private static JsonObject of(Map<?, ?> map) {
        return new JsonObject((Map<String, Object>) map);
    }
}
