package io.github.rmbgqueue.client;

import java.net.URI;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The parameters of a submission, by the names that the API gives them; each method returns changed ones.
 *
 * <pre>{@code
 * RemovalOptions.none().outputFormat("webp").quality(85).crop(true).cropMargin("5%")
 * }</pre>
 *
 * @param values the parameters that are sent, by name
 */
public record RemovalOptions(Map<String, Object> values) {
    private static final RemovalOptions NONE = new RemovalOptions(Map.of());

    /** Copies the parameters. */
    public RemovalOptions {
        values = Collections.unmodifiableMap(new LinkedHashMap<>(values));
    }

    /**
     * Returns no parameters: the service's defaults.
     *
     * @return a transparent PNG of the picture's size
     */
    public static RemovalOptions none() {
        return NONE;
    }

    /**
     * Sets a parameter by its name, also one that is newer than this client.
     *
     * @param name as the API has it
     * @param value text, number, boolean, list or map
     * @return these parameters and that one
     */
    public RemovalOptions with(String name, Object value) {
        Map<String, Object> changed = new LinkedHashMap<>(values);
        changed.put(name, value);
        return new RemovalOptions(changed);
    }

    /**
     * Sets the file format of the result.
     *
     * @param format one of the formats that the service lists, such as png, webp or jpg
     * @return the changed parameters
     */
    public RemovalOptions outputFormat(String format) {
        return with("output_format", format);
    }

    /**
     * Fills the background.
     *
     * @param color #rgb, #rrggbb, #rrggbbaa or a CSS name
     * @return the changed parameters
     */
    public RemovalOptions matteColor(String color) {
        return with("matte_color", color);
    }

    /**
     * Sets the quality of lossy formats.
     *
     * @param percent 1 to 100
     * @return the changed parameters
     */
    public RemovalOptions quality(int percent) {
        return with("quality", percent);
    }

    /**
     * Chooses whether the old background's color is taken out of half-transparent edges.
     *
     * @param refine true by default
     * @return the changed parameters
     */
    public RemovalOptions refine(boolean refine) {
        return with("refine", refine);
    }

    /**
     * Chooses between the cutout, its alpha, and the picture itself.
     *
     * @param output cutout, mask or original
     * @return the changed parameters
     */
    public RemovalOptions output(String output) {
        return with("output", output);
    }

    /**
     * Trims the result to the subject.
     *
     * @param crop false by default
     * @return the changed parameters
     */
    public RemovalOptions crop(boolean crop) {
        return with("crop", crop);
    }

    /**
     * Keeps a margin around the trimmed subject.
     *
     * @param margins 1, 2 or 4 lengths in px or %
     * @return the changed parameters
     */
    public RemovalOptions cropMargin(String margins) {
        return with("crop_margin", margins);
    }

    /**
     * Scales larger results down.
     *
     * @param pixels of the longer side, at least 16
     * @return the changed parameters
     */
    public RemovalOptions maxSide(int pixels) {
        return with("max_side", pixels);
    }

    /**
     * Looks for the subject in a rectangle only.
     *
     * @param rectangle x1 y1 x2 y2, in px or %
     * @return the changed parameters
     */
    public RemovalOptions roi(String rectangle) {
        return with("roi", rectangle);
    }

    /**
     * Sets how much of the result the subject fills.
     *
     * @param share 10% to 100%
     * @return the changed parameters
     */
    public RemovalOptions scale(String share) {
        return with("scale", share);
    }

    /**
     * Sets where in the result the subject is.
     *
     * @param place center, or x% y%
     * @return the changed parameters
     */
    public RemovalOptions position(String place) {
        return with("position", place);
    }

    /**
     * Puts the result on a canvas of an exact size.
     *
     * @param size WIDTHxHEIGHT in pixels, such as 2000x2000
     * @return the changed parameters
     */
    public RemovalOptions canvas(String size) {
        return with("canvas", size);
    }

    /**
     * Hardens the subject's edge.
     *
     * @param percent 1 to 100: what is opaque to that becomes opaque, and all else transparent
     * @return the changed parameters
     */
    public RemovalOptions maskThreshold(int percent) {
        return with("mask_threshold", percent);
    }

    /**
     * Moves the subject's edge outward, or inward if it is negative.
     *
     * @param pixels of the picture, -100 to 100
     * @return the changed parameters
     */
    public RemovalOptions maskOffset(int pixels) {
        return with("mask_offset", pixels);
    }

    /**
     * Fades the subject's edge.
     *
     * @param pixels of the picture, 0 to 100
     * @return the changed parameters
     */
    public RemovalOptions maskFeather(int pixels) {
        return with("mask_feather", pixels);
    }

    /**
     * Puts a shadow under the subject.
     *
     * @param kind none or drop
     * @return the changed parameters
     */
    public RemovalOptions shadow(String kind) {
        return with("shadow", kind);
    }

    /**
     * Sets how dark the shadow is.
     *
     * @param percent 0 to 100
     * @return the changed parameters
     */
    public RemovalOptions shadowOpacity(int percent) {
        return with("shadow_opacity", percent);
    }

    /**
     * Puts a picture behind the subject.
     *
     * @param address where the service fetches it
     * @return the changed parameters
     */
    public RemovalOptions backgroundUrl(URI address) {
        return with("background_url", address.toString());
    }

    /**
     * Chooses a model.
     *
     * @param name one of those that the service serves
     * @return the changed parameters
     */
    public RemovalOptions model(String name) {
        return with("model", name);
    }

    /**
     * Sets the task's place among those that wait.
     *
     * @param priority high, normal or low
     * @return the changed parameters
     */
    public RemovalOptions priority(String priority) {
        return with("priority", priority);
    }

    /**
     * Sets what is returned wherever the task is shown.
     *
     * @param metadata up to 2 kB as JSON
     * @return the changed parameters
     */
    public RemovalOptions metadata(Map<String, ?> metadata) {
        return with("metadata", Map.copyOf(metadata));
    }

    /**
     * Has the end of the task posted to an address.
     *
     * @param address of the receiver
     * @param events which events; all of them if there are none here
     * @return the changed parameters
     */
    public RemovalOptions webhook(URI address, String... events) {
        RemovalOptions changed = with("webhook_url", address.toString());
        return events.length == 0 ? changed : changed.with("webhook_events", List.of(events));
    }

    /**
     * Lets the task fail if no worker has begun it in time.
     *
     * @param time at most the service's own limit, a day by default
     * @return the changed parameters
     */
    public RemovalOptions expiresIn(Duration time) {
        return with("expires_in", time.toMillis() / 1000.0);
    }

    /**
     * Chooses whether the cutout of an equal, earlier task may be taken.
     *
     * @param cache true by default
     * @return the changed parameters
     */
    public RemovalOptions cache(boolean cache) {
        return with("cache", cache);
    }
}
